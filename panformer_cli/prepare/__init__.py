"""One module for each source of data that `panformer prepare-data` takes."""
