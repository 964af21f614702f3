"""Compare Panoptic SegFormer with Mask2Former from Hugging Face's transformers, both with ResNet-50.

    pip install transformers
    python benchmarks/peers.py
    python benchmarks/peers.py --size 512x512 --repeat 10 --json

Both models have random weights for COCO's 133 classes, get the same image at the same size, and run in fp32 with the
same threads (set OMP_NUM_THREADS to change them). Their passes alternate, so that a busy machine slows both equally.
Peak memory is measured in a separate process for each. benchmarks/README.md explains the results.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, NamedTuple, NoReturn

import torch

from panformer_cli.console import print_table
from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.data.scenes.generator import SceneOptions, generate_scene
from panformer_cli.data.structures import ImageArray
from panformer_cli.data.transforms import normalize
from panformer_cli.engine.benchmarking.benchmark import parse_size
from panformer_cli.engine.benchmarking.meters import PeakMemory, Spread, clock_of, device_name, matrix_rate
from panformer_cli.engine.benchmarking.random_model import random_model
from panformer_cli.engine.inference import Predictor
from panformer_cli.errors import PanformerError
from panformer_cli.models.panoptic_segformer.random_weights import STUFF, THINGS
from panformer_cli.recipe_io import load_recipe

PEERS = ("panformer", "mask2former")
WARM_UP = 2


class Pass(NamedTuple):
    """Seconds of the forward pass, of forward pass and merging, and the number of segments."""

    forward: float
    merged: float
    segments: int


Peer = Callable[[], Pass]


@dataclass(frozen=True)
class Result:
    """Results of a peer: milliseconds, segments of the last pass, and peak memory in a separate process, MiB."""

    forward_ms: Spread
    merged_ms: Spread
    segments: int
    peak_memory_mib: float | None


def panformer(image: ImageArray, device: torch.device) -> Peer:
    """Return a pass of the recipe r50 as `panformer predict` runs it."""
    height, width = image.shape[:2]
    sides = [f"data.short_side={min(height, width)}", f"data.long_side={max(height, width)}"]
    recipe = load_recipe("r50", sides)
    model = random_model(recipe, COCO)
    model.optimize_for_inference()
    predictor = Predictor(model, recipe, device)
    read = clock_of(device)

    def run() -> Pass:
        inputs = predictor.prepare([image])
        begin = read()
        output = predictor.infer(*inputs)
        forward = read() - begin
        panoptic = predictor.postprocess(output, 0, (height, width)).panoptic  # accessing it merges the masks
        return Pass(forward, read() - begin, len(panoptic.segments))

    return run


def mask2former(image: ImageArray, device: torch.device) -> Peer:
    """Return a pass of Mask2Former with transformers' defaults, which are the paper's, and its post-processing."""
    import transformers as hf

    hf.logging.set_verbosity_error()
    backbone = hf.ResNetConfig(out_features=["stage1", "stage2", "stage3", "stage4"])
    torch.manual_seed(0)
    config = hf.Mask2FormerConfig(backbone_config=backbone, num_labels=len(COCO))
    model = hf.Mask2FormerForUniversalSegmentation(config).eval().to(device)
    merge = hf.Mask2FormerImageProcessor().post_process_panoptic_segmentation
    pixels, read = normalize(image)[None].to(device), clock_of(device)

    @torch.inference_mode()
    def run() -> Pass:
        begin = read()
        output = model(pixel_values=pixels)
        forward = read() - begin
        add_candidates(output)
        begin = read()
        (found,) = merge(output, target_sizes=[image.shape[:2]])
        return Pass(forward, forward + read() - begin, len(found["segments_info"]))

    return run


def add_candidates(output: Any) -> None:
    """Add as many candidates to Mask2Former's random outputs as panformer has, with masks on a fifth of the image.

    Without candidates, its post-processing would have nothing to do.
    """
    classes, masks = output.class_queries_logits, output.masks_queries_logits  # (1, Q, classes + 1), (1, Q, h, w)
    candidates = torch.arange(THINGS + STUFF, device=classes.device)
    classes.zero_()
    classes[:, :, -1] = 10  # "no object" ...
    classes[:, candidates, candidates] = 20  # ... except for the first queries, each with a different class
    masks -= masks.mean((-2, -1), keepdim=True) + 0.84 * masks.std((-2, -1), keepdim=True)


def build(name: str, size: tuple[int, int], device: torch.device) -> Peer:
    """Return the peer of this name, with its input image."""
    image = generate_scene(SceneOptions(height=size[0], width=size[1]), "val", 0)[0]
    return {"panformer": panformer, "mask2former": mask2former}[name](image, device)


def run_interleaved(arguments: argparse.Namespace) -> tuple[dict[str, list[Pass]], list[float]]:
    """Return the passes of all peers, and the matrix rates between them in FLOP/s."""
    device = torch.device(arguments.device)
    peers = {name: build(name, arguments.size, device) for name in PEERS}
    for run in peers.values():
        for _ in range(WARM_UP):
            run()
    passes: dict[str, list[Pass]] = {name: [] for name in PEERS}
    rates = []
    for _ in range(arguments.repeat):
        rates.append(matrix_rate(device, torch.float32))
        for name, run in peers.items():
            passes[name].append(run())
    return passes, rates


def peak_memory(name: str, arguments: argparse.Namespace) -> float | None:
    """Return the peak memory, MiB, of a process that runs only this peer."""
    size = "x".join(map(str, arguments.size))
    options = ["--memory-of", name, "--size", size, "--device", arguments.device]
    done = subprocess.run([sys.executable, __file__, *options], stdout=subprocess.PIPE, text=True, check=True)
    peak: float | None = json.loads(done.stdout)
    return peak


def own_peak_memory(arguments: argparse.Namespace) -> float | None:
    """Return the peak memory, MiB, of `--memory-of` in this process; without building the model, if possible."""
    device = torch.device(arguments.device)
    run = build(arguments.memory_of, arguments.size, device)
    memory = PeakMemory(device)
    memory.reset()
    for _ in range(WARM_UP):
        run()
    return memory.mib()


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return all measurements, ready for JSON."""
    memory = {name: peak_memory(name, arguments) for name in PEERS}
    passes, rates = run_interleaved(arguments)
    results = {name: _result(rows, memory[name]) for name, rows in passes.items()}
    pairs = list(zip(*passes.values(), strict=True))
    ours, theirs = memory.values()
    ratios = {
        "forward": Spread.of([one.forward / other.forward for one, other in pairs]),
        "merged": Spread.of([one.merged / other.merged for one, other in pairs]),
        "merged_over_bare_forward": Spread.of([one.merged / other.forward for one, other in pairs]),
    }
    return {
        "size": arguments.size,
        "repeat": arguments.repeat,
        "warm_up": WARM_UP,
        "peers": {name: asdict(result) for name, result in results.items()},
        "ratios": {name: asdict(ratio) for name, ratio in ratios.items()},
        "peak_memory_ratio": ours / theirs if ours and theirs else None,
        "matrix_gflops": Spread.of(rates).median / 1e9,
        "device": arguments.device,
        "device_name": device_name(torch.device(arguments.device)),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("panformer", "torch", "timm", "transformers")},
    }


def _result(passes: list[Pass], memory: float | None) -> Result:
    forward, merged = ([1000 * seconds for seconds in column] for column in list(zip(*passes, strict=True))[:2])
    return Result(Spread.of(forward), Spread.of(merged), passes[-1].segments, memory)


def show(content: dict[str, Any]) -> None:
    """Print the results as a table."""
    height, width = content["size"]
    columns = ["", "forward ms", "min ms", "with merging ms", "min ms", "peak MiB", "segments"]
    rows = [
        [name, *(row[key][part] for key in ("forward_ms", "merged_ms") for part in ("median", "least"))]
        + [row["peak_memory_mib"], row["segments"]]
        for name, row in content["peers"].items()
    ]
    print_table(f"R-50, {height}x{width}, batch 1, fp32, random weights, {content['repeat']} runs", columns, rows)
    for name, ratio in content["ratios"].items():
        spread = f"{ratio['lower_quartile']:.2f} to {ratio['upper_quartile']:.2f}"
        print(f"panformer / mask2former, {name.replace('_', ' ')}: {ratio['median']:.2f} ({spread})")
    if content["peak_memory_ratio"]:
        print(f"panformer / mask2former, peak memory: {content['peak_memory_ratio']:.2f}")
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
    parser.add_argument("--size", default="800x1333", metavar="HxW", help="input of both models [800x1333]")
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="runs of each model [5]")
    parser.add_argument("--device", default="cpu", metavar="D", help="cpu or cuda [cpu]")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--memory-of", choices=PEERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    try:
        arguments.size = parse_size(arguments.size)
    except PanformerError as error:
        fail(str(error))
    if arguments.repeat < 1:
        fail(f"--repeat is {arguments.repeat}: expected 1 or more")
    try:
        version("transformers")
    except ModuleNotFoundError:
        fail("transformers is not installed; this comparison needs it: pip install transformers")
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
