"""One checkpoint or one set of predictions to numbers, pages and comparisons."""
