"""Experiment trackers: TensorBoard, Weights & Biases, MLflow and trackio, each an optional extra."""
