"""Processes: ranks, devices, signals, and starting several of them."""
