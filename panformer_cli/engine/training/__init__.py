"""Training: the loop, one optimizer step, learning rates and the log."""
