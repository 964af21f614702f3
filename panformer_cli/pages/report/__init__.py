"""The report of an evaluation: metrics, sortable tables, and images with layers."""
