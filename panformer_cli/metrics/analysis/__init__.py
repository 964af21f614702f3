"""Why points of PQ were lost."""
