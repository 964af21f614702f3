"""The page of an evaluation: metrics, tables to sort and filter, and images with layers."""
