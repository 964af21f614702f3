"""K-Net: kernels that find things and stuff alike (docs/knet.md). Inference only."""
