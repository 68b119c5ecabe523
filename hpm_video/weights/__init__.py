"""Weights in and out. In: files of this and other projects (files.py, folders.py, hub.py) are read under our names (read.py,
convert_in.py) and copied into a model (transfer.py). Out: a run's model for other libraries (export.py, exporters/).
"""
