"""Processes: ranks, devices, signals, starting them on one or several machines, and jobs for SLURM."""
