"""Linear layers that run as convolutions, compared with matrix products."""

from __future__ import annotations

import pytest
import torch

from panformer_cli.models.layers.token_linear import TokenLinear


@pytest.mark.parametrize("shape", [(1, 5, 8), (2, 7, 8), (3, 0, 8), (0, 4, 8)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_token_linear_equals_a_linear_with_and_without_gradients(shape: tuple[int, int, int], bias: bool) -> None:
    layer = TokenLinear(8, 3, bias=bias)
    tokens = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = torch.einsum("blc,oc->blo", tokens, layer.weight) + (layer.bias if bias else 0)
    torch.testing.assert_close(layer(tokens), expected)
    with torch.inference_mode():
        ours = layer(tokens)
    torch.testing.assert_close(ours, expected.detach())
    assert ours.shape == (*shape[:2], 3)
    strided = tokens.flip(0).transpose(0, 1).contiguous().transpose(0, 1)
    with torch.no_grad():
        torch.testing.assert_close(layer(strided), layer(strided.contiguous()))


@pytest.mark.parametrize("shape", [(1, 5, 8), (2, 8, 8), (1, 33, 8), (3, 50, 8), (2, 0, 8)])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_of_a_token_linear_equal_those_of_the_product(shape: tuple[int, int, int], bias: bool) -> None:
    """With fewer tokens than `ROWS`, a multiple of it, and a remainder. The gradient is not contiguous."""
    torch.manual_seed(0)
    layer = TokenLinear(8, 3, bias=bias)
    tokens, gradient = torch.randn(shape), torch.randn(3, *shape[:2]).permute(1, 2, 0)
    exact = [value.detach().double().requires_grad_() for value in (tokens, *layer.parameters())]
    expected = torch.einsum("blc,oc->blo", exact[0], exact[1]) + (exact[2] if bias else 0)
    tokens.requires_grad_()
    gradients = torch.autograd.grad(expected, exact, gradient.double())
    found = torch.autograd.grad(layer(tokens), [tokens, *layer.parameters()], gradient)
    for ours, theirs in zip(found, gradients, strict=True):
        torch.testing.assert_close(ours, theirs.float())


def test_a_frozen_token_linear_passes_gradients_and_its_output_can_be_modified_in_place() -> None:
    layer = TokenLinear(8, 3).requires_grad_(False)
    tokens = torch.randn(1, 20, 8, requires_grad=True)
    output = layer(tokens).relu_()
    (ours,) = torch.autograd.grad(output.sum(), tokens)
    torch.testing.assert_close(ours, (output > 0).float() @ layer.weight)
    assert not layer(tokens.detach()).requires_grad


@pytest.mark.slow
@pytest.mark.parametrize("with_gradients", [False, True])
def test_a_token_linear_is_traced_as_one_graph(with_gradients: bool) -> None:
    layer = TokenLinear(8, 3)
    tokens = torch.randn(1, 40, 8)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    with torch.set_grad_enabled(with_gradients):
        torch.testing.assert_close(compiled(tokens), layer(tokens))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_transposed_equals_the_linear_with_channels_first(dtype: torch.dtype, tolerance: float) -> None:
    layer = TokenLinear(8, 3)
    tokens = torch.randn(2, 20, 8).to(dtype)
    expected = tokens.double() @ layer.weight.double().t() + layer.bias.double()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        output = layer.transposed(tokens)
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), expected.transpose(1, 2), rtol=tolerance, atol=tolerance)
