"""Publish a checkpoint on the Hugging Face Hub: weights, configuration, model card, upload."""
