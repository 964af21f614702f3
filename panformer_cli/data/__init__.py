"""Images and annotations: reading, transforming, batching and writing them."""
