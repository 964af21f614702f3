"""Measure time and peak memory of the network's forward pass by batch size, precision and memory format.

    python benchmarks/inference.py
    python benchmarks/inference.py --recipe swinl --batches 1 16 --precisions fp32 bf16 fp16 --device cuda --json

Weights and images are random; reading, resizing, merging and writing are excluded (`panformer benchmark` has them). The
model is that of `panformer predict`: BatchNorm folded, the backbone's convolutions in channels-last memory format.
`contiguous` is the same model in PyTorch's default memory format. Every line is printed as soon as it is measured. The
exit code is 1 if an output is not finite or the GPU ran out of memory.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import product
from typing import Any

import torch

from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.engine.benchmarking.benchmark import parse_size
from panformer_cli.engine.benchmarking.meters import PeakMemory, Spread, clock_of, device_name
from panformer_cli.engine.precision import DTYPES, autocast
from panformer_cli.errors import PanformerError
from panformer_cli.models.base import PanopticModel
from panformer_cli.models.build import build_model
from panformer_cli.recipe_io import load_recipe

FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
WARM_UP = 2


def main() -> int:
    """Print one line per setting; return 1 if one of them failed, 2 for invalid options."""
    options = parsed()
    device = torch.device(options.device)
    torch.manual_seed(0)
    try:
        size = parse_size(options.size)
        recipe = load_recipe(options.recipe, ["model.backbone_weights=none"])
        model = build_model(recipe.model, recipe.inference, COCO, pretrained=False)
    except PanformerError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    model.optimize_for_inference()
    model.to(device)
    about = {"recipe": options.recipe, "size": size, "device_name": device_name(device), "torch": torch.__version__}
    failed = False
    for result in measured(model, device, size, options):
        failed |= "error" in result
        print(json.dumps({**about, **result}) if options.json else as_text({**about, **result}), flush=True)
    return int(failed)


def parsed() -> argparse.Namespace:
    """Return the parsed options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="r50", help="name or YAML file [r50]")
    parser.add_argument("--size", default="800x1333", metavar="HxW", help="size of the images [800x1333]")
    parser.add_argument("--batches", type=int, nargs="+", default=[1], metavar="N", help="images per pass [1]")
    parser.add_argument(
        "--precisions", nargs="+", choices=DTYPES, default=["fp32"], help="of the matrix products [fp32]"
    )
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS), help="memory formats [all]")
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="measured passes per setting [5]")
    parser.add_argument("--device", default="cpu", metavar="D", help="cpu or cuda [cpu]")
    parser.add_argument("--json", action="store_true", help="print JSON, one object per line")
    options = parser.parse_args()
    if min(options.repeat, *options.batches) < 1:
        parser.error("--repeat and --batches: expected 1 or more")
    return options


def measured(
    model: PanopticModel, device: torch.device, size: tuple[int, int], options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Yield the result of each setting, with its times or an `error`."""
    for memory_format, batch, precision in product(options.formats, options.batches, options.precisions):
        setting = {"batch": batch, "precision": precision, "memory_format": memory_format}
        model.backbone.to(memory_format=FORMATS[memory_format])
        images = torch.randn(batch, 3, *size, device=device).to(memory_format=FORMATS[memory_format])
        padding_mask = torch.zeros(batch, *size, dtype=torch.bool, device=device)
        try:
            result = measure(model, images, padding_mask, precision, options.repeat)
        except torch.OutOfMemoryError:
            result = {"error": "the GPU ran out of memory"}
        yield {**setting, **result}


@torch.inference_mode()
def measure(
    model: PanopticModel, images: torch.Tensor, padding_mask: torch.Tensor, precision: Any, repeat: int
) -> dict[str, Any]:
    """Return milliseconds, rate and peak memory of `repeat` passes."""
    device = images.device
    read, memory, seconds = clock_of(device), PeakMemory(device), []
    for number in range(WARM_UP + repeat):
        if number == WARM_UP:
            memory.reset()
        begin = read()
        with autocast(precision, device):
            output = model.infer(images, padding_mask)
        if number >= WARM_UP:
            seconds.append(read() - begin)
    if not all(bool(tensor.isfinite().all()) for tensor in output):
        return {"error": "an output is not finite"}
    ms = Spread.of([1000 * value for value in seconds])
    rate = 1000 * len(images) / ms.median
    return {"ms": asdict(ms), "images_per_second": rate, "peak_memory_mib": memory.mib()}


def as_text(content: dict[str, Any]) -> str:
    """Return a readable line."""
    height, width = content["size"]
    setting = f"{content['recipe']}, {height}x{width}, batch {content['batch']}, {content['precision']}, "
    setting += content["memory_format"].replace("_", " ")
    if "error" in content:
        return f"{setting}: {content['error']}"
    peak = "unknown" if content["peak_memory_mib"] is None else f"{content['peak_memory_mib']:.0f} MiB"
    return f"{setting}: {content['ms']['median']:.1f} ms, {content['images_per_second']:.1f} images/s, peak {peak}"


if __name__ == "__main__":
    sys.exit(main())
