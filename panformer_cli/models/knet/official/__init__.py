"""Official checkpoints of K-Net: their tensor names, their variants, and the published files."""
