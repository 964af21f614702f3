"""Official checkpoints: their tensor names, their variants, and the published files."""
