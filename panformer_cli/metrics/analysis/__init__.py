"""Error analysis: why points of PQ were lost."""
