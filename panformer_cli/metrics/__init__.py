"""Predictions and ground truth to numbers: records of images, matching, PQ, AP and what explains them."""
