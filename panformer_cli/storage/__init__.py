"""Files as the whole program reads and writes them: whole or not at all, plain, and safe."""
