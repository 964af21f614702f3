"""The page of an evaluation: figures, tables that sort and filter, and images with layers."""
