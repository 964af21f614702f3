"""Layers and functions that model families share."""
