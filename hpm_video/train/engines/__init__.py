"""Engines: one file each. They run the model, the update and the communication on the hardware."""
