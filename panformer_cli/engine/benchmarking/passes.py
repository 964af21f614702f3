"""Timed passes from image files to result files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from panformer_cli.data.images import read_image
from panformer_cli.data.structures import ImageArray, PanopticMap
from panformer_cli.engine.benchmarking.meters import (
    Edges,
    Meter,
    PeakMemory,
    Spread,
    clock_of,
    flop_meter,
    matrix_rate,
    metered,
)
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.inference import Predictor
from panformer_cli.engine.precision import DTYPES
from panformer_cli.engine.results import PanopticResults
from panformer_cli.reporting import Reporter
from panformer_cli.visualization.drawing import DrawOptions, draw_panoptic, save_image

WARM_UP = 3
"""Passes before the measured ones; the first one counts the FLOPs."""


class Pipeline:
    """Process image files as `panformer predict` does."""

    def __init__(self, predictor: Predictor, files: Sequence[Path], out: Path) -> None:
        """Create a pipeline.

        Args:
            predictor: The model.
            files: The images of one batch, with the same size after resizing.
            out: Folder of the results.
        """
        self._predictor = predictor
        self._files = files
        self._results = PanopticResults(out, predictor.categories, Process(0, 1, predictor.device))
        self.dtype = DTYPES[predictor.precision]
        self.device = predictor.device
        self.model = predictor.model

    def read(self) -> list[ImageArray]:
        """Decode the files."""
        return [read_image(path) for path in self._files]

    def predict(self, images: Sequence[ImageArray], read: Meter) -> tuple[list[PanopticMap], Edges]:
        """Return the maps of all images, as one batch, and the readings before and after the network."""
        inputs = self._predictor.prepare(images)
        begin = read()
        output = self._predictor.infer(*inputs)
        end = read()
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        maps = [self._predictor.postprocess(output, number, size).panoptic for number, size in enumerate(sizes)]
        return maps, Edges(begin, end, end - begin)

    def write(self, images: Sequence[ImageArray], maps: Sequence[PanopticMap]) -> None:
        """Write an overlay and a panoptic PNG for each image."""
        for index, (image, panoptic) in enumerate(zip(images, maps, strict=True)):
            overlay = draw_panoptic(image, panoptic, self._results.categories, DrawOptions(scores=True))
            save_image(self._results.out / "overlays" / f"{index}.jpg", overlay)
            self._results.add(index, index, (f"{index}.jpg", f"{index}.png"), panoptic)


@dataclass(frozen=True)
class WholePass:
    """Seconds of a whole pass and of its network, peak memory in MiB, and number of segments in all images."""

    total: float
    network: float
    memory: float | None
    segments: int


def whole_pass(pipeline: Pipeline, memory: PeakMemory) -> WholePass:
    """Run a pass that reads the clock only around itself and around the network."""
    read = clock_of(pipeline.device)
    memory.reset()
    begin = read()
    images = pipeline.read()
    maps, network = pipeline.predict(images, read)
    pipeline.write(images, maps)
    end = read()
    segments = sum(len(panoptic.segments) for panoptic in maps)
    return WholePass(end - begin, network.total, memory.mib(), segments)


def staged_pass(pipeline: Pipeline) -> dict[str, float]:
    """Return the seconds of each stage by name, in the order they run.

    `prepare` resizes, normalizes and moves the images to the device. The model's own stages follow. `network_rest` is
    what belongs to none of them, such as query selection. `writing` draws the overlay, and writes it and the PNG.
    """
    read = clock_of(pipeline.device)
    with metered(pipeline.model.stages(), read) as parts:
        begin = read()
        images = pipeline.read()
        decoded = read()
        maps, network = pipeline.predict(images, read)
        merged = read()
        pipeline.write(images, maps)
        end = read()
    return {
        "decode": decoded - begin,
        "prepare": network.begin - decoded,
        **_with_rest(parts, network),
        "merging": merged - network.end,
        "writing": end - merged,
    }


def count_flops(pipeline: Pipeline) -> dict[str, float]:
    """Return the FLOPs of each stage of the network."""
    images = pipeline.read()
    with flop_meter(pipeline.model) as read, metered(pipeline.model.stages(), read) as parts:
        _, network = pipeline.predict(images, read)
    return _with_rest(parts, network)


def _with_rest(parts: dict[str, Edges], network: Edges) -> dict[str, float]:
    """Return the totals of the network's parts, and the rest of the network."""
    totals = {name: edge.total for name, edge in parts.items()}
    return totals | {"network_rest": network.total - sum(totals.values())}


@dataclass(frozen=True)
class Figures:
    """The measurements of one or several stages, for the whole batch.

    Attributes:
        ms: Milliseconds.
        gflop: GFLOP, as counted by `flop_meter`; None outside the network.
        limit_share: Time of these operations at the matrix rate, relative to the median; None outside the network.
    """

    ms: Spread
    gflop: float | None
    limit_share: float | None


class Passes:
    """Run all passes. Whole and staged passes are interleaved, so that a busy machine slows both equally.

    Attributes:
        flops: FLOPs by stage of the network, and of `network` and `total`.
        matrix_rate: Matrix rate in FLOP/s.
        memory: Peak memory meter.
        whole: One entry per whole pass.
        staged: One entry per staged pass.
    """

    def __init__(self, pipeline: Pipeline, repeat: int, reporter: Reporter) -> None:
        self.memory = PeakMemory(pipeline.device)
        self.whole: list[WholePass] = []
        self.staged: list[dict[str, float]] = []
        rates = []
        with reporter.progress("Measuring", WARM_UP + 2 * repeat) as progress:
            self.flops = count_flops(pipeline)
            progress.advance(status="FLOPs counted")
            for _ in range(WARM_UP - 1):
                whole_pass(pipeline, self.memory)
                progress.advance(status="warming up")
            for _ in range(repeat):
                rates.append(matrix_rate(pipeline.device, pipeline.dtype))
                self.whole.append(whole_pass(pipeline, self.memory))
                progress.advance()
                self.staged.append(staged_pass(pipeline))
                progress.advance()
        self.flops["network"] = self.flops["total"] = sum(self.flops.values())
        self.matrix_rate = Spread.of(rates).median

    def figures(self, seconds: Sequence[float], name: str) -> Figures:
        """Return the measurements of the stage `name` from its times in seconds."""
        ms = Spread.of([1000 * value for value in seconds])
        flops = self.flops.get(name)
        if flops is None:
            return Figures(ms, None, None)
        return Figures(ms, flops / 1e9, flops / self.matrix_rate / (ms.median / 1000))
