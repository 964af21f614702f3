"""Published data sets in forms of their own: Cityscapes, ADE20K, Mapillary Vistas."""
