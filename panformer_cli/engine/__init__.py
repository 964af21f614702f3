"""The stages a person runs: train, evaluate, predict, visualize, and what they share."""
