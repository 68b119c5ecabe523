"""Read the lists, annotation files and folders of known data sets into the rows of a manifest."""
