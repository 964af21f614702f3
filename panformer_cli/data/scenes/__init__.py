"""Generated scenes: a data set without a download."""
