"""Create new data sets from prepared ones."""
