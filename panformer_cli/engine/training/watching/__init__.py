"""What a run shows while it trains: the log, its speed, a profile, and pictures for experiment trackers."""
