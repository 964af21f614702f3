"""The feed-forward of transformer layers."""

from __future__ import annotations

from torch import Tensor, nn

from panformer_cli.models.layers.token_linear import TokenLinear


class FeedForward(nn.Module):
    """Linear, ReLU, Linear with dropout after both (spec, section 4). The residual is the caller's."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = TokenLinear(dim, hidden_dim)
        self.linear2 = TokenLinear(hidden_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L, C) -> (B, L, C)."""
        hidden = self.dropout(self.linear1(tokens).relu_())
        output: Tensor = self.dropout(self.linear2(hidden))
        return output
