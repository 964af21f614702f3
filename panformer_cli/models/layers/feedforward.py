"""The feed-forward network of transformer layers."""

from __future__ import annotations

from torch import Tensor, nn

from panformer_cli.models.layers.dropout import Dropout
from panformer_cli.models.layers.token_linear import TokenLinear


class FeedForward(nn.Module):
    """Linear, ReLU, Linear with dropout after both (docs/model.md, "Encoder"), without the residual."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = TokenLinear(dim, hidden_dim)
        self.linear2 = TokenLinear(hidden_dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (B, L, C) tokens for (B, L, C) tokens."""
        hidden = self.dropout.after_relu_(self.linear1(tokens))
        output: Tensor = self.dropout(self.linear2(hidden))
        return output
