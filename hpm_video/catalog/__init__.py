"""Lists, annotation files and folders of known data sets, read into the rows of a manifest."""
