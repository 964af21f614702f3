"""Panoptic SegFormer (Li et al., CVPR 2022): network, matcher, criterion, postprocessing, official checkpoints."""
