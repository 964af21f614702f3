"""Reading and writing files: atomic writes, plain JSON and YAML, tensors, downloads and result logs."""
