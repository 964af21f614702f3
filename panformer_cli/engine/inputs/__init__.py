"""What `predict` segments: files, folders, addresses, archives and lists of names."""
