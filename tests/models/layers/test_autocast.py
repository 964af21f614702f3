"""When tokens are converted for autocast."""

from __future__ import annotations

import torch

from panformer_cli.models.layers.autocast import cast_for_autocast


def test_tokens_are_converted_only_under_autocast_without_gradients() -> None:
    tokens = torch.randn(1, 3, 4)
    assert cast_for_autocast(tokens) is tokens
    with torch.autocast("cpu", torch.bfloat16):
        assert cast_for_autocast(tokens) is tokens
        with torch.no_grad():
            assert torch.equal(cast_for_autocast(tokens), tokens.bfloat16())
    with torch.no_grad():
        assert cast_for_autocast(tokens) is tokens
