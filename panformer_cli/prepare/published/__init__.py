"""Convert published data sets with their own formats: Cityscapes, ADE20K, Mapillary Vistas."""
