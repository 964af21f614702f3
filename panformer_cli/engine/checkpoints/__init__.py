"""Checkpoints: reading, writing, finding, importing."""
