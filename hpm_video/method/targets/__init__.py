"""What is predicted of the hidden tokens: one file per kind of target."""
