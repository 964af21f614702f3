"""The stages behind the commands: train, evaluate, predict, visualize, and what they share."""
