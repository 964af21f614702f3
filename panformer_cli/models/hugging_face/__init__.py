"""Universal segmentation models of Hugging Face's transformers: MaskFormer, Mask2Former, OneFormer, EoMT and DETR."""
