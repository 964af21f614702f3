"""Metrics, reports and comparisons of checkpoints and predictions."""
