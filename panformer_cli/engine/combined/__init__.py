"""Predictions that are combined from several forward passes: tiles of large images, and test-time augmentation."""
