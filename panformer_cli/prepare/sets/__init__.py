"""New data sets out of prepared ones."""
