"""The Python interface: what `import panformer` offers. It calls the engine's stages with the commands' defaults."""
