"""Backbones: from images to feature maps at strides 8, 16 and 32."""
