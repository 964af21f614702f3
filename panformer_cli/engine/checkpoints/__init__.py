"""Read, write, download and import checkpoints."""
