"""Data set converters, one module per source format of `panformer prepare-data`."""
