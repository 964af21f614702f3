"""Measuring memory and time of training steps on the worst batch, with a model that is thrown away."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.engine.benchmarking.meters import PeakMemory, clock_of
from panformer_cli.engine.distributed.allocator import return_freed_memory
from panformer_cli.engine.distributed.out_of_memory import is_out_of_memory
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.precision import fast_precision
from panformer_cli.engine.training.averaging import AveragedWeights
from panformer_cli.engine.training.memory.parts import use_parts
from panformer_cli.engine.training.memory.plan import (
    Ladder,
    MemoryPlan,
    Probe,
    checkpoint_levels,
    fastest_plan,
    micro_batches,
)
from panformer_cli.engine.training.memory.worst_case import WorstCase, worst_batch, worst_case
from panformer_cli.engine.training.step import OptimizerStep
from panformer_cli.errors import PanformerError
from panformer_cli.models.build import build_model
from panformer_cli.recipe import Recipe
from panformer_cli.reporting import Reporter, SilentReporter

GB = 1e9
STEPS = 2
"""Steps of a probe. The optimizer's moments exist from the second one on."""


def fit_memory(recipe: Recipe, limit: float, process: Process, reporter: Reporter) -> Recipe:
    """Return the recipe with the fastest settings whose steps stay within a limit; the images per step are unchanged.

    The worst batch of the data set is tried with models of random weights. Nothing else changes: no random state, no
    file, no model.

    Args:
        recipe: All settings, with the data set.
        limit: Bytes of memory of one process: of the whole process on a CPU, of PyTorch on a GPU.
        process: This process. All ranks try the same plans and use the same one.
        reporter: For the result of each trial.

    Raises:
        PanformerError: No combination fits.
    """
    root = Path(recipe.data.root)
    data = process.first_then_others(lambda: CocoPanoptic(root, recipe.data.train_split, recipe.data.skip_bad_images))
    trial = _Trial(recipe, data, process, limit)
    ladder = _ladder(recipe, process)

    def probe(plan: MemoryPlan) -> Probe | None:
        probes = process.gather(trial(plan))
        fitting = [each for each in probes if each is not None]
        worst = None
        if len(fitting) == len(probes):
            worst = Probe(max(each.memory for each in fitting), max(each.seconds for each in fitting))
        result = f"more than {limit / GB:.1f} GB"
        if worst is not None:
            result = f"{worst.memory / GB:.1f} GB, {worst.seconds:.2f} s per image"
        reporter.message(f"Tried {plan}: {result}")
        return worst

    found = fastest_plan(ladder, limit, probe)
    if found is None:
        raise PanformerError(
            f"--fit-memory: even with {ladder.smallest}, a step needs more than {limit / GB:.1f} GB; use smaller "
            "images (data.long_side, data.train_short_sides), a smaller model, or more memory"
        )
    reporter.message(f"Fits in {limit / GB:.1f} GB: {found[0]}")
    return replace(recipe, train=found[0].applied(recipe.train))


def _ladder(recipe: Recipe, process: Process) -> Ladder:
    settings = recipe.train
    share = max(settings.batch_size // process.world_size, 1)
    # On a CPU, larger batches are not faster. With BatchNorm that is not frozen, they change the training.
    is_free = process.device.type != "cpu" and recipe.model.frozen_batch_norm
    sizes = micro_batches(share, share if is_free else settings.images_per_forward)
    if not recipe.model.frozen_batch_norm:
        sizes = [settings.images_per_forward]
    precisions = [settings.precision]
    if process.gather(fast_precision(process.device))[0] == "bf16" and settings.precision == "fp32":
        precisions.append("bf16")
    return Ladder(sizes, precisions, checkpoint_levels(settings, recipe.model.parts))


class _Trial:
    """Runs steps of a new model on the worst batch.

    Args:
        recipe: All settings.
        data: The training split.
        process: This process.
        limit: In bytes.
    """

    def __init__(self, recipe: Recipe, data: CocoPanoptic, process: Process, limit: float) -> None:
        self._recipe, self._categories, self._limit = recipe, data.categories, limit
        self._processes = process.world_size
        self._alone = Process(0, 1, process.device, sampling=process.sampling)
        self._case: WorstCase = worst_case(data, recipe.data)

    def __call__(self, plan: MemoryPlan) -> Probe | None:
        """Return what a plan needs; None if it needs more than the limit."""
        device = self._alone.device
        release_memory(device)
        devices = [device] if device.type == "cuda" else []
        exceeded = False
        probe = None
        with torch.random.fork_rng(devices=devices):
            try:
                with _limited(device, self._limit) as peak:
                    seconds = self._steps(plan)
                probe = Probe(peak(), seconds)
            except Exception as error:
                if not (isinstance(error, _LimitError) or is_out_of_memory(error)):
                    raise
                exceeded = True
        release_memory(device)  # outside of `except`, where the error would keep the tensors of the failed trial
        return None if exceeded else probe

    def _steps(self, plan: MemoryPlan) -> float:
        """Run the steps and return the seconds per image of the last one."""
        device = self._alone.device
        settings = plan.applied(self._recipe.train)
        share = max(settings.batch_size // self._processes, plan.images_per_forward)
        # With accumulation, gradients exist during the forward pass.
        forwards = min(2, share // plan.images_per_forward)
        model = build_model(
            self._recipe.model,
            self._recipe.inference,
            self._categories,
            pretrained=False,
            sampling=self._alone.sampling,
        ).to(device)
        model.freeze(settings.freeze)
        use_parts(model, replace(settings, compile=()), device, SilentReporter())
        step = OptimizerStep(self._alone, model, replace(settings, batch_size=forwards * plan.images_per_forward))
        average = AveragedWeights(model, settings.ema_decay) if settings.ema_decay is not None else None
        # DistributedDataParallel has a copy of all gradients.
        trained = [p for p in model.parameters() if p.requires_grad]
        buckets = [torch.empty_like(p) for p in trained] if self._processes > 1 else []
        batches = [worst_batch(self._case, plan.images_per_forward, self._categories)] * forwards
        read, seconds = clock_of(device), 0.0
        for _ in range(STEPS):
            began = read()
            step.take(batches, 0.0)
            if average is not None:
                average.update(model, 1)
            seconds = read() - began
        del buckets
        return seconds / (forwards * plan.images_per_forward)


@contextlib.contextmanager
def _limited(device: torch.device, limit: float) -> Iterator[Callable[[], float]]:
    """Yield a function that returns the peak memory in bytes, in a context that raises an error above the limit."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.reset_peak_memory_stats(device)
        torch.cuda.set_per_process_memory_fraction(min(limit / total, 1.0), device)
        try:
            yield lambda: float(torch.cuda.max_memory_reserved(device))
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
        return
    process = PeakMemory(device)
    before = (process.mib() or 0.0) * 2**20
    live = LiveTensors(limit - before)
    with live:
        yield lambda: max((process.mib() or 0.0) * 2**20, before + live.peak)


class _LimitError(Exception):
    """A trial needs more memory than allowed."""


class LiveTensors(TorchDispatchMode):
    """Adds up the storages of the tensors that operations in this context return, as long as they are alive.

    Args:
        limit: In bytes; above it, a _LimitError is raised.

    Attributes:
        now: The sum, in bytes.
        peak: The largest sum so far, in bytes.
    """

    def __init__(self, limit: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        self._limit = limit
        self._alive: dict[int, tuple[int, Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count what it returns."""
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        if self.now > self._limit:
            raise _LimitError
        return output

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._alive:
            return
        size = storage.nbytes()
        self._alive[key] = (size, weakref.ref(storage, lambda _: self._remove(key)))
        self.now += size
        self.peak = max(self.peak, self.now)

    def _remove(self, key: int) -> None:
        size, _ = self._alive.pop(key)
        self.now -= size


def release_memory(device: torch.device) -> None:
    """Return freed memory to the system, so that the next peak does not include it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return
    return_freed_memory()
