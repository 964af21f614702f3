"""The feed-forward, compared with its formula."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from panformer_cli.models.layers.feedforward import FeedForward


def test_feedforward_is_two_linears_with_dropout_after_both() -> None:
    torch.manual_seed(0)
    feedforward = FeedForward(4, 6, dropout=0.5)
    x = torch.randn(1, 3, 4)
    hidden = (x @ feedforward.linear1.weight.T + feedforward.linear1.bias).clamp(min=0)
    expected = hidden @ feedforward.linear2.weight.T + feedforward.linear2.bias
    torch.testing.assert_close(feedforward.eval()(x), expected)
    torch.manual_seed(1)
    dropped = F.dropout(hidden, 0.5) @ feedforward.linear2.weight.T + feedforward.linear2.bias
    dropped = F.dropout(dropped, 0.5)
    torch.manual_seed(1)
    torch.testing.assert_close(feedforward.train()(x), dropped)
