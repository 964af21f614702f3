"""The feed-forward, compared with its formula."""

from __future__ import annotations

import torch

from panformer_cli.models.layers.feedforward import FeedForward


def test_feedforward_is_two_linears_with_dropout_after_both() -> None:
    torch.manual_seed(0)
    feedforward = FeedForward(4, 6, dropout=0.5)
    x = torch.randn(1, 3, 4)
    hidden = (x @ feedforward.linear1.weight.T + feedforward.linear1.bias).clamp(min=0)
    expected = hidden @ feedforward.linear2.weight.T + feedforward.linear2.bias
    torch.testing.assert_close(feedforward.eval()(x), expected)
    seen: list[torch.Tensor] = []
    feedforward.dropout.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    feedforward.train()(x)
    assert [tuple(values.shape) for values in seen] == [(1, 3, 6), (1, 3, 4)]
    torch.testing.assert_close(seen[0], hidden)
