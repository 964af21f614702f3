"""The log of a run: rows of metrics.jsonl, and the messages of evaluations."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from panformer_cli.engine.checkpoints.checkpoint import TrainProgress
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.runs import RunFolder
from panformer_cli.metrics.quality import GroupQuality, PanopticResult, shown
from panformer_cli.pages.base import format_number
from panformer_cli.reporting import Reporter


class TrainLog:
    """Mean losses since the last row, and the rows that rank 0 writes. Every rank calls the same methods.

    Losses are summed on their device and copied to the CPU only when a value is read.

    Args:
        process: This process.
        run: The folder with metrics.jsonl.
        reporter: For the messages of evaluations.
        steps_per_epoch: Optimizer steps of an epoch.
    """

    def __init__(self, process: Process, run: RunFolder, reporter: Reporter, steps_per_epoch: int) -> None:
        self._process, self._run, self._reporter = process, run, reporter
        self._steps_per_epoch = steps_per_epoch
        self._sums: dict[str, Tensor] = {}
        self._weight = 0.0

    @property
    def running(self) -> float:
        """Mean total loss since the last row."""
        return float(sum(self._sums.values())) / max(self._weight, 1e-12)

    def add(self, losses: list[dict[str, Tensor]]) -> None:
        """Add the losses of one optimizer step, one dictionary for each of its batches."""
        weight = 1 / len(losses)
        for of_batch in losses:
            for name, value in of_batch.items():
                term = name.split("/")[0]  # the decoder layers of one term together
                self._sums[term] = self._sums.get(term, 0) + value * weight
            self._weight += weight

    def reset(self) -> None:
        """Forget the losses since the last row."""
        self._sums, self._weight = {}, 0.0

    def write_losses(self, progress: TrainProgress, lr: float) -> None:
        """Write a row with the means over all processes since the last one, and reset them.

        Nothing is written if all steps since then were skipped, which is the same on all ranks.
        """
        if not self._sums:
            return
        total = self._process.sum(torch.stack(list(self._sums.values())).cpu()) / self._process.world_size
        means = dict(zip(self._sums, (total / self._weight).tolist(), strict=True))
        self.reset()
        values = {"lr": lr, "loss": sum(means.values()), "losses": means, "seconds": progress.seconds}
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

    def _write(self, kind: str, progress: TrainProgress, values: dict[str, Any]) -> None:
        if self._process.is_first:
            epoch = (progress.step - 1) // self._steps_per_epoch
            self._run.log({"kind": kind, "step": progress.step, "epoch": epoch, **values})


def _texts(group: GroupQuality) -> dict[str, str]:
    """Return PQ, SQ and RQ as text; a dash if the group has no class."""
    return {key: format_number(value) for key, value in shown(asdict(group)).items()}
