"""The log of a run: rows of metrics.jsonl, and the messages of evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from panformer_cli.engine.benchmarking.meters import PeakMemory
from panformer_cli.engine.checkpoints.checkpoint import TrainProgress
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.runs import RunFolder
from panformer_cli.engine.trackers.tracking import Tracking
from panformer_cli.engine.training.step import StepResult
from panformer_cli.errors import WriteError
from panformer_cli.metrics.quality import GroupQuality, PanopticResult, shown
from panformer_cli.pages.base import format_number
from panformer_cli.reporting import Reporter
from panformer_cli.wording import counted


class TrainLog:
    """Mean losses since the last row, and the rows that rank 0 writes. Every rank calls the same methods.

    Losses are summed on their device and copied to the CPU only when a value is read.

    Args:
        process: This process.
        run: The folder with metrics.jsonl.
        reporter: For the messages of evaluations.
        steps_per_epoch: Optimizer steps of an epoch.
        tracking: Experiment trackers that get the rows, too; None for none. Only rank 0 uses it.
    """

    def __init__(
        self,
        process: Process,
        run: RunFolder,
        reporter: Reporter,
        steps_per_epoch: int,
        tracking: Tracking | None = None,
    ) -> None:
        self._process, self._run, self._reporter = process, run, reporter
        self._steps_per_epoch = steps_per_epoch
        self._tracking = tracking
        self._memory = PeakMemory(process.device)
        self._unwritten: list[dict[str, Any]] = []
        self._warned = False
        self.reset()

    def reset(self) -> None:
        """Forget the losses since the last row."""
        self._sums: dict[str, Tensor] = {}
        self._weight = 0.0
        self._norms: list[Tensor] = []

    def state(self) -> dict[str, Tensor]:
        """Return what was collected since the last row, on the CPU: `weight`, `norms` and `losses.<term>`."""
        if not self._sums:
            return {}
        losses = {f"losses.{term}": value.cpu() for term, value in self._sums.items()}
        return {"weight": torch.tensor(self._weight, dtype=torch.float64), "norms": self._all_norms().cpu(), **losses}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned, so that the next row is that of a run that was not interrupted."""
        self.reset()
        if not state:
            return
        device = self._process.device
        self._weight, self._norms = float(state["weight"]), list(state["norms"].to(device).unbind())
        losses = {name: value for name, value in state.items() if name.startswith("losses.")}
        self._sums = {name.removeprefix("losses."): value.to(device) for name, value in losses.items()}

    def _all_norms(self) -> Tensor:
        return torch.stack(self._norms)

    @property
    def running(self) -> float | None:
        """Mean total loss since the last row; None if all steps since then were skipped."""
        return float(sum(self._sums.values())) / self._weight if self._sums else None

    def add(self, result: StepResult) -> None:
        """Add what an optimizer step reports."""
        self._norms.append(result.gradient_norm)
        losses = result.losses
        weight = 1 / len(losses)
        for of_batch in losses:
            for name, value in of_batch.items():
                term = name.split("/")[0]  # the decoder layers of one term together
                self._sums[term] = self._sums.get(term, 0) + value * weight
            self._weight += weight

    def write_losses(self, progress: TrainProgress, lr: float, speed: dict[str, float]) -> None:
        """Write a row with the means over all processes since the last one, and reset them.

        Nothing is written if all steps since then were skipped, which is the same on all ranks.

        Args:
            progress: The progress after the last step.
            lr: Learning rate of the last step, without the factors of parameter groups.
            speed: Times and other values that are not the same when the run is repeated.
        """
        if not self._sums:
            return
        total = self._process.sum(torch.stack(list(self._sums.values())).cpu()) / self._process.world_size
        means = dict(zip(self._sums, (total / self._weight).tolist(), strict=True))
        values = {
            "lr": lr,
            "loss": sum(means.values()),
            "losses": means,
            "gradient_norm": float(self._all_norms().mean()),
            "seconds": progress.seconds,
            "speed": speed | {"memory_mib": self._memory.mib()},
        }
        self.reset()
        self._write("train", progress, values)

    def write_skipped(self, progress: TrainProgress, reason: str, images: list[str]) -> None:
        """Write a row for a skipped step: what was not finite, and the file names of its images."""
        self._write("skipped", progress, {"reason": reason, "images": images})

    def write_rollback(self, progress: TrainProgress, diverged_at: int) -> None:
        """Write a row for a return from step `diverged_at` to an earlier checkpoint."""
        self._write("rollback", progress, {"diverged_at": diverged_at, "lr_factor": progress.lr_factor})

    def write_evaluation(self, progress: TrainProgress, groups: PanopticResult) -> None:
        """Write a row with the results of an evaluation, and print them."""
        quality, things, stuff = (_texts(group) for group in (groups.all, groups.things, groups.stuff))
        metrics = asdict(groups.all) | {"pq_things": groups.things.pq, "pq_stuff": groups.stuff.pq}
        self._write("eval", progress, metrics)
        self._reporter.message(
            f"Step {progress.step}: PQ {quality['pq']} (things {things['pq']}, stuff {stuff['pq']}), "
            f"SQ {quality['sq']}, RQ {quality['rq']}"
        )

    def write_changes(self, progress: TrainProgress, changed: Mapping[str, tuple[Any, Any]]) -> None:
        """Write a row with the settings that a resumed run changes, as [old, new] by dotted key."""
        self._write("resume", progress, {"changed": {key: list(pair) for key, pair in changed.items()}})

    def _write(self, kind: str, progress: TrainProgress, values: dict[str, Any]) -> None:
        if self._process.is_first:
            epoch = max(progress.step - 1, 0) // self._steps_per_epoch
            row = {"kind": kind, "step": progress.step, "epoch": epoch, **values}
            self._unwritten.append(row)
            self.flush()
            if self._tracking is not None and kind != "resume":
                self._tracking.log(row)

    def flush(self, is_ending: bool = False) -> None:
        """Write the rows that could not be written before; if this fails again, they wait for the next call.

        Args:
            is_ending: Whether this is the last call, so that what is lost is reported.
        """
        try:
            while self._unwritten:
                self._run.log(self._unwritten[0])
                del self._unwritten[0]
            self._warned = False
        except WriteError as error:
            if is_ending:
                self._reporter.warn(f"{error}; {counted(len(self._unwritten), 'line')} of the log could not be written")
            elif not self._warned:
                self._reporter.warn(f"{error}; the lines are written as soon as possible")
            self._warned = True


def _texts(group: GroupQuality) -> dict[str, str]:
    """Return PQ, SQ and RQ as text; a dash if the group has no class."""
    return {key: format_number(value) for key, value in shown(asdict(group)).items()}
