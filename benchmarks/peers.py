"""Compare the model families side by side: time and memory at equal input, with random weights.

    pip install 'panformer[hf]'
    python benchmarks/peers.py
    python benchmarks/peers.py --size 512x512 --repeat 10 --families panoptic_segformer mask2former --json

Each family runs as `panformer predict` runs it, those of transformers through panformer's adapter with their original
project's merging. All have 133 classes, get the same image at the same size, and run in fp32 with the same threads (set
OMP_NUM_THREADS to change them). Their passes alternate, so that a busy machine slows all of them equally; the ratios to
the first family are of passes of the same round. Peak memory is measured in a separate process for each.
benchmarks/README.md explains the results.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from panformer_cli.console import print_table
from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.data.scenes.generator import SceneOptions, generate_scene
from panformer_cli.data.structures import ImageArray
from panformer_cli.engine.benchmarking.benchmark import parse_size
from panformer_cli.engine.benchmarking.meters import PeakMemory, Spread, clock_of, device_name, matrix_rate
from panformer_cli.engine.benchmarking.random_model import random_model
from panformer_cli.engine.inference import Predictor
from panformer_cli.errors import PanformerError
from panformer_cli.models.panoptic_segformer.random_weights import FOREGROUND, STUFF, THINGS
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_io import load_recipe

FAMILIES = ("panoptic_segformer", "knet", "maskformer", "mask2former", "oneformer", "eomt", "detr")
NATIVE = {"panoptic_segformer": "r50", "knet": "knet_r50"}
"""Recipes of the families that are panformer's own; the others are of transformers."""
BACKBONES = {"eomt": "ViT-L/16"}
"""Backbones other than ResNet-50."""
PATCH = 16
"""EoMT's square input has whole patches of this side, in pixels."""
WARM_UP = 1


class Pass(NamedTuple):
    """Seconds of the forward pass, of forward pass and merging, and the number of segments."""

    forward: float
    merged: float
    segments: int


@dataclass(frozen=True)
class Peer:
    """A model that is ready to run on the image.

    Attributes:
        parameters: number of parameters.
        run: one pass.
    """

    parameters: int
    run: Callable[[], Pass]


@dataclass(frozen=True)
class Result:
    """Results of a family.

    Attributes:
        parameters: number of parameters.
        forward_ms: forward pass.
        merged_ms: forward pass and merging.
        ratio: forward pass and merging, as a multiple of the first family's in the same round.
        segments: of the last pass.
        peak_memory_mib: of a separate process; None if it cannot be measured.
    """

    parameters: int
    forward_ms: Spread
    merged_ms: Spread
    ratio: Spread
    segments: int
    peak_memory_mib: float | None


def recipe_of(family: str, size: tuple[int, int], folder: Path) -> Recipe:
    """Return the recipe of a family for an input of this height and width; `folder` gets a config of transformers."""
    sides = [f"data.short_side={min(size)}", f"data.long_side={max(size)}"]
    if family in NATIVE:
        return load_recipe(NATIVE[family], sides)
    config = folder / f"{family}.json"
    config.write_text(json.dumps(_config(family, size)))
    model = ["model.family=hugging_face", f"model.architecture={family}", f"model.config={config}"]
    recipe = folder / f"{family}.yaml"
    recipe.write_text(f"name: {family}\nmodel: {{family: hugging_face}}\n")
    return load_recipe(str(recipe), [*model, *sides])


def _config(family: str, size: tuple[int, int]) -> dict[str, Any]:
    """Return transformers' default config of a family with ResNet-50, where it can have that, and 133 classes."""
    import transformers as hf

    hf.logging.set_verbosity_error()  # it warns of ResNet-50, which MaskFormer and Mask2Former were published with
    backbone = {"backbone_config": hf.ResNetConfig.from_dict({"out_features": [f"stage{n}" for n in range(1, 5)]})}
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "maskformer": (hf.MaskFormerConfig, backbone),
        "mask2former": (hf.Mask2FormerConfig, backbone),
        "oneformer": (hf.OneFormerConfig, backbone),
        "eomt": (hf.EomtConfig, {"image_size": -(-max(size) // PATCH) * PATCH}),
        "detr": (hf.DetrConfig, {}),
    }
    kind, settings = kinds[family]
    content: dict[str, Any] = kind(num_labels=len(COCO), **settings).to_dict()
    return content


def build(family: str, arguments: argparse.Namespace) -> Peer:
    """Return the model of a family with random weights, and its input image."""
    size, device = arguments.size, torch.device(arguments.device)
    image: ImageArray = generate_scene(SceneOptions(height=size[0], width=size[1]), "val", 0)[0]
    with tempfile.TemporaryDirectory() as folder:
        recipe = recipe_of(family, size, Path(folder))
        model = random_model(recipe, COCO)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    model.optimize_for_inference()
    predictor = Predictor(model, recipe, device)
    read = time.process_time if arguments.cpu_time else clock_of(device)

    def run() -> Pass:
        inputs = predictor.prepare([image])
        begin = read()
        output = predictor.infer(*inputs)
        forward = read() - begin
        add_candidates(family, output)
        begin = read()
        panoptic = predictor.postprocess(output, 0, size).panoptic  # accessing it merges the masks
        return Pass(forward, forward + read() - begin, len(panoptic.segments))

    return Peer(parameters, run)


@torch.inference_mode()
def add_candidates(family: str, output: Any) -> None:
    """Give random outputs as many candidates as panformer's random weights have, with masks on a fifth of the image.

    Without candidates, merging would have nothing to do. It changes nothing for Panoptic SegFormer, whose last layers
    are scaled instead (`PanopticModel.spread_scores`).
    """
    if family == "panoptic_segformer":
        return
    classes: Tensor = output.class_logits  # (1, Q, C), or (1, Q, C + 1) with "no object" as the last class
    masks: Tensor = output.masks if family == "knet" else output.mask_logits  # (1, Q, h, w)
    candidates = torch.arange(THINGS + STUFF, device=classes.device)
    classes.fill_(-10)
    if family != "knet":
        classes[:, :, -1] = 0  # "no object" ...
    classes[:, candidates, candidates] = 10  # ... except for the first queries, each with a different class
    cells = masks.flatten(2).float()
    masks -= cells.quantile(1 - FOREGROUND, dim=2)[..., None, None].to(masks.dtype)


def run_interleaved(arguments: argparse.Namespace) -> tuple[dict[str, Peer], dict[str, list[Pass]], list[float]]:
    """Return all models, their passes, and the matrix rates between them in FLOP/s."""
    device = torch.device(arguments.device)
    peers = {name: build(name, arguments) for name in arguments.families}
    for peer in peers.values():
        for _ in range(WARM_UP):
            peer.run()
    passes: dict[str, list[Pass]] = {name: [] for name in peers}
    rates = []
    for _ in range(arguments.repeat):
        rates.append(matrix_rate(device, torch.float32))
        for name, peer in peers.items():
            passes[name].append(peer.run())
    return peers, passes, rates


def peak_memory(name: str, arguments: argparse.Namespace) -> float | None:
    """Return the peak memory, MiB, of a process that runs only this family."""
    size = "x".join(map(str, arguments.size))
    options = ["--memory-of", name, "--size", size, "--device", arguments.device]
    done = subprocess.run([sys.executable, __file__, *options], stdout=subprocess.PIPE, text=True, check=True)
    peak: float | None = json.loads(done.stdout)
    return peak


def own_peak_memory(arguments: argparse.Namespace) -> float | None:
    """Return the peak memory, MiB, of `--memory-of` in this process; without building the model, if possible."""
    peer = build(arguments.memory_of, arguments)
    memory = PeakMemory(torch.device(arguments.device))
    memory.reset()
    for _ in range(WARM_UP):
        peer.run()
    return memory.mib()


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return all measurements, ready for JSON."""
    memory = {name: peak_memory(name, arguments) for name in arguments.families}
    peers, passes, rates = run_interleaved(arguments)
    first = passes[arguments.families[0]]
    results = {name: _result(peers[name], rows, first, memory[name]) for name, rows in passes.items()}
    return {
        "size": arguments.size,
        "repeat": arguments.repeat,
        "clock": "CPU time" if arguments.cpu_time else "wall time",
        "warm_up": WARM_UP,
        "families": {name: asdict(result) for name, result in results.items()},
        "matrix_gflops": Spread.of(rates).median / 1e9,
        "device": arguments.device,
        "device_name": device_name(torch.device(arguments.device)),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("panformer", "torch", "timm", "transformers")},
    }


def _result(peer: Peer, passes: list[Pass], first: list[Pass], memory: float | None) -> Result:
    forward, merged = ([1000 * seconds for seconds in column] for column in list(zip(*passes, strict=True))[:2])
    ratio = Spread.of([own.merged / other.merged for own, other in zip(passes, first, strict=True)])
    return Result(peer.parameters, Spread.of(forward), Spread.of(merged), ratio, passes[-1].segments, memory)


def show(content: dict[str, Any]) -> None:
    """Print the results as a table."""
    height, width = content["size"]
    columns = ["", "backbone", "M parameters", "forward ms", "with merging ms", "min ms", "ratio", "ratios", "peak MiB"]
    rows = [
        [name, BACKBONES.get(name, "ResNet-50"), row["parameters"] / 1e6, row["forward_ms"]["median"]]
        + [row["merged_ms"]["median"], row["merged_ms"]["least"], f"{row['ratio']['median']:.2f}"]
        + [f"{row['ratio']['lower_quartile']:.2f} to {row['ratio']['upper_quartile']:.2f}", row["peak_memory_mib"]]
        for name, row in content["families"].items()
    ]
    title = f"{height}x{width}, batch 1, fp32, random weights, {content['repeat']} rounds, {content['clock']}"
    print_table(title, columns, rows)
    versions = ", ".join(f"{name} {number}" for name, number in content["versions"].items())
    print(f"{content['device']} ({content['device_name']}), {content['threads']} threads, {versions}")
    print(f"matrix rate {content['matrix_gflops']:.0f} GFLOP/s")


def fail(message: str) -> NoReturn:
    """Print an error on stderr and exit with code 2."""
    print(f"Error: {message}", file=sys.stderr)
    raise SystemExit(2)


def main() -> None:
    """Parse the options, compare, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES, help="models to run [all]")
    parser.add_argument("--size", default="800x1333", metavar="HxW", help="input of all models [800x1333]")
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="runs of each model [5]")
    parser.add_argument("--device", default="cpu", metavar="D", help="cpu or cuda [cpu]")
    parser.add_argument("--cpu-time", action="store_true", help="measure CPU time, which other programs do not change")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--memory-of", choices=FAMILIES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    try:
        arguments.size = parse_size(arguments.size)
    except PanformerError as error:
        fail(str(error))
    if arguments.cpu_time and arguments.device != "cpu":
        fail(f"--cpu-time is for --device cpu, not {arguments.device}: leave it out")
    if arguments.repeat < 1:
        fail(f"--repeat is {arguments.repeat}: expected 1 or more")
    try:
        version("transformers")
    except ModuleNotFoundError:
        fail("transformers is not installed; this comparison needs it: pip install 'panformer[hf]'")
    if arguments.memory_of:
        print(json.dumps(own_peak_memory(arguments)))
        return
    content = compare(arguments)
    if arguments.json:
        print(json.dumps(content, indent=2))
    else:
        show(content)


if __name__ == "__main__":
    main()
