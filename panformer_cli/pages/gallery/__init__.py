"""The gallery, which several pages share: a grid of images, a viewer with layers, and a search."""
