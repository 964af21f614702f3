"""One process or several: devices, ranks, signals."""
