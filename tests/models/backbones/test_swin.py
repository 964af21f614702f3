"""Our Swin block, compared with attention computed cell by cell, without windows, rolls or masks."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from timm.models.swin_transformer import PatchMerging, SwinTransformerBlock
from torch import Tensor

from panformer_cli.models.backbones.build import build_backbone
from panformer_cli.models.backbones.swin import PadFirstSwinBlock, PadFirstSwinBlocks, StridedPatchMerging
from panformer_cli.models.backbones.windows import Windows

WINDOW, HEADS, DIM = 4, 2, 8
Cell = tuple[int, int]


def timm_block(shift: int = 0, size: Cell = (16, 16)) -> SwinTransformerBlock:
    torch.manual_seed(0)
    block = SwinTransformerBlock(DIM, size, num_heads=HEADS, window_size=WINDOW, shift_size=shift).eval()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return block


def neighborhoods(height: int, width: int, shift: int) -> list[list[tuple[Cell, Cell]]]:
    """Return groups of cells of the padded map that attend to each other, as (cell, cell after the shift)."""
    groups: dict[tuple[int, int, bool, bool], list[tuple[Cell, Cell]]] = defaultdict(list)
    for row in range(height):
        for column in range(width):
            moved = ((row - shift) % height, (column - shift) % width)
            # Cells that the shift wraps around share a window, but not a neighborhood, with the cells there.
            key = (moved[0] // WINDOW, moved[1] // WINDOW, row < shift, column < shift)
            groups[key].append(((row, column), moved))
    return list(groups.values())


def gathered_attention(block: SwinTransformerBlock, x: Tensor, shift: int) -> Tensor:
    """Return the output of the attention branch, (H, W, C), for `x` (H, W, C) after the norm."""
    attention = block.attn
    height, width = (-(-side // WINDOW) * WINDOW for side in x.shape[:2])
    padded = torch.zeros(height, width, DIM)
    padded[: x.shape[0], : x.shape[1]] = x
    q, k, v = attention.qkv(padded).view(height, width, 3, HEADS, DIM // HEADS).unbind(2)
    bias = attention.relative_position_bias_table.view(2 * WINDOW - 1, 2 * WINDOW - 1, HEADS)
    result = torch.zeros_like(padded)
    for group in neighborhoods(height, width, shift):
        for (row, column), (moved_row, moved_column) in group:
            logits = torch.stack(
                [
                    (q[row, column] * k[r, c]).sum(-1) * (DIM // HEADS) ** -0.5
                    + bias[moved_row - mr + WINDOW - 1, moved_column - mc + WINDOW - 1]
                    for (r, c), (mr, mc) in group
                ]
            )  # (cells, heads)
            values = torch.stack([v[r, c] for (r, c), _ in group])
            result[row, column] = (logits.softmax(0)[..., None] * values).sum(0).flatten()
    return attention.proj(result)[: x.shape[0], : x.shape[1]]  # type: ignore[no-any-return]


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", [(8, 4), (5, 7), (3, 2), (1, 9)], ids=str)
def test_a_block_equals_gathered_attention(size: Cell, shift: int) -> None:
    block = timm_block()
    x = torch.randn(1, *size, DIM, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = PadFirstSwinBlock(block)(x, Windows(x, WINDOW, shift))
        middle = x + gathered_attention(block, block.norm1(x)[0], shift)
        torch.testing.assert_close(ours, middle + block.mlp(block.norm2(middle)), rtol=1e-4, atol=1e-5)


def test_the_shift_has_an_effect_on_maps_smaller_than_a_window() -> None:
    block = timm_block()
    x = torch.randn(1, 3, 2, DIM, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        straight, shifted = (PadFirstSwinBlock(block)(x, Windows(x, WINDOW, shift)) for shift in (0, 2))
    assert not torch.allclose(straight, shifted, atol=1e-3)


@pytest.mark.parametrize("shift", [0, 2])
def test_with_complete_windows_it_equals_the_timm_block(shift: int) -> None:
    block = timm_block(shift, size=(8, 12))
    x = torch.randn(2, 8, 12, DIM, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(
            PadFirstSwinBlock(block)(x, Windows(x, WINDOW, shift)), block(x), rtol=1e-5, atol=1e-5
        )


def test_every_other_block_of_a_stage_is_shifted_by_half_a_window() -> None:
    blocks = PadFirstSwinBlocks([PadFirstSwinBlock(timm_block()) for _ in range(4)], WINDOW)
    x = torch.randn(1, 5, 7, DIM, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = x
        for block, shift in zip(blocks, (0, 2, 0, 2), strict=True):
            expected = block(expected, Windows(x, WINDOW, shift))
        assert torch.equal(blocks(x), expected)


@pytest.mark.parametrize("size", [(6, 4), (5, 7), (1, 3)], ids=str)
def test_patch_merging_equals_timms(size: Cell) -> None:
    torch.manual_seed(0)
    merging = PatchMerging(DIM).eval()
    x = torch.randn(2, *size, DIM)
    with torch.no_grad():
        assert torch.equal(StridedPatchMerging(merging)(x), merging(x))


def test_the_backbone_has_none_of_timms_blocks() -> None:
    with torch.device("meta"):
        backbone = build_backbone("swin_tiny", 0.0, 0, True)
    stages = [module for module in backbone.modules() if isinstance(module, PadFirstSwinBlocks)]
    assert [(len(stage), stage.window) for stage in stages] == [(2, 7), (2, 7), (6, 7), (2, 7)]
    assert sum(isinstance(module, StridedPatchMerging) for module in backbone.modules()) == 3
    assert not any(isinstance(module, (SwinTransformerBlock, PatchMerging)) for module in backbone.modules())
