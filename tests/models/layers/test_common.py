"""The small shared pieces against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from panformer_cli.models.layers.common import (
    FeedForward,
    TokenLinear,
    cast_for_autocast,
    inverse_sigmoid,
    may_be_true,
    relu,
    xavier_matrices,
)


def test_relu_with_a_waking_slope_has_the_same_values_bit_by_bit() -> None:
    x = torch.cat(
        [torch.randn(10_000, generator=torch.Generator().manual_seed(0)), torch.tensor([0.0, -0.0, 1e30, -1e30])]
    )
    for slope in (0.0, 0.1, 0.5):
        assert torch.equal(relu(x.clone().requires_grad_(), slope), F.relu(x))
        assert torch.equal(relu(x, slope), F.relu(x))


def test_relu_passes_on_below_zero_only_what_would_raise() -> None:
    x = torch.tensor([-3.0, -1e-3, -2.0, 1e-3, 2.0], requires_grad=True)
    upstream = torch.tensor([1.0, -2.0, -4.0, 3.0, -4.0])
    for slope, expected in ((0.25, [0.0, -0.5, -1.0, 3.0, -4.0]), (0.0, [0.0, 0.0, 0.0, 3.0, -4.0])):
        (gradient,) = torch.autograd.grad(relu(x, slope), x, upstream)
        torch.testing.assert_close(gradient, torch.tensor(expected))


def test_inverse_sigmoid_goes_back_and_stops_at_the_edges() -> None:
    x = torch.tensor([0.2, 0.5, 0.9])
    torch.testing.assert_close(inverse_sigmoid(x), torch.tensor([math.log(0.25), 0.0, math.log(9.0)]))
    edge = math.log(1e5)
    torch.testing.assert_close(
        inverse_sigmoid(torch.tensor([0.0, -1.0, 1.0, 2.0])), torch.tensor([-edge, -edge, edge, edge])
    )


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


def test_xavier_fills_matrices_and_leaves_vectors() -> None:
    linear = torch.nn.Linear(30, 50)
    bias = linear.bias.clone()
    xavier_matrices(linear)
    limit = math.sqrt(6 / 80)
    assert 0.95 * limit < linear.weight.abs().max() <= limit
    torch.testing.assert_close(linear.bias, bias, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(1, 5, 8), (2, 7, 8), (3, 0, 8), (0, 4, 8)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_token_linear_is_a_linear_with_and_without_gradients(shape: tuple[int, int, int], bias: bool) -> None:
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
def test_gradients_of_a_token_linear_are_those_of_the_product(shape: tuple[int, int, int], bias: bool) -> None:
    """Fewer tokens than `ROWS`, as many, some left over; a gradient that is not contiguous."""
    torch.manual_seed(0)
    layer = TokenLinear(8, 3, bias=bias)
    tokens, gradient = torch.randn(shape), torch.randn(3, *shape[:2]).permute(1, 2, 0)
    exact = [value.detach().double().requires_grad_() for value in (tokens, *layer.parameters())]
    expected = torch.einsum("blc,oc->blo", exact[0], exact[1]) + (exact[2] if bias else 0)
    tokens.requires_grad_()
    wanted = torch.autograd.grad(expected, exact, gradient.double())
    found = torch.autograd.grad(layer(tokens), [tokens, *layer.parameters()], gradient)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs.float())


def test_a_frozen_token_linear_passes_gradients_on_and_its_output_may_be_changed_in_place() -> None:
    layer = TokenLinear(8, 3).requires_grad_(False)
    tokens = torch.randn(1, 20, 8, requires_grad=True)
    output = layer(tokens).relu_()
    (ours,) = torch.autograd.grad(output.sum(), tokens)
    torch.testing.assert_close(ours, (output > 0).float() @ layer.weight)
    assert not layer(tokens.detach()).requires_grad


@pytest.mark.parametrize("with_gradients", [False, True])
def test_a_token_linear_is_traced_as_one_graph(with_gradients: bool) -> None:
    layer = TokenLinear(8, 3)
    tokens = torch.randn(1, 40, 8)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    with torch.set_grad_enabled(with_gradients):
        torch.testing.assert_close(compiled(tokens), layer(tokens))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_a_transposed_linear_is_the_linear_channels_first(dtype: torch.dtype, tolerance: float) -> None:
    layer = TokenLinear(8, 3)
    tokens = torch.randn(2, 20, 8).to(dtype)
    expected = tokens.double() @ layer.weight.double().t() + layer.bias.double()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        output = layer.transposed(tokens)
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), expected.transpose(1, 2), rtol=tolerance, atol=tolerance)


def test_a_mask_may_be_true_where_one_element_is() -> None:
    mask = torch.zeros(2, 3, dtype=torch.bool)
    assert not may_be_true(mask)
    mask[1, 2] = True
    assert may_be_true(mask)


def test_tokens_are_made_ready_only_for_products_of_lower_precision_without_gradients() -> None:
    tokens = torch.randn(1, 3, 4)
    assert cast_for_autocast(tokens) is tokens
    with torch.autocast("cpu", torch.bfloat16):
        assert cast_for_autocast(tokens) is tokens
        with torch.no_grad():
            assert torch.equal(cast_for_autocast(tokens), tokens.bfloat16())
    with torch.no_grad():
        assert cast_for_autocast(tokens) is tokens
