"""Tests of panformer_cli/engine/training/replay."""
