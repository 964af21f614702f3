"""`train --profile`: where the time of a step goes, a verdict, and a trace of one step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean

import torch
from torch.profiler import ProfilerActivity, profile

from panformer_cli.engine.benchmarking.meters import clock_of, metered
from panformer_cli.engine.training.step import OptimizerStep
from panformer_cli.engine.training.watching.step_clock import NoClock, PartClock
from panformer_cli.reporting import Reporter
from panformer_cli.storage.files import atomic_write, write_json
from panformer_cli.wording import counted

WARM_UP = 3
"""Steps before the measured ones: workers start, kernels are compiled, caches fill."""
MEASURED = 10
"""Measured steps. The device is synchronized between their parts."""
DATA_BOUND = 0.2
"""Share of the time spent waiting for images from which on the verdict is `data-bound`."""
WAITING, REST = "waiting for data", "rest"

Seconds = Mapping[str, float]


class StepProfile:
    """Measures `MEASURED` steps after `WARM_UP`, traces one more, and reports; other steps run as without it.

    Args:
        folder: Gets profile.json and trace.json.
        step: The optimizer step to measure.
        device: Its device.
        reporter: For the verdict.
    """

    def __init__(self, folder: Path, step: OptimizerStep, device: torch.device, reporter: Reporter) -> None:
        self._folder, self._step, self._reporter = folder, step, reporter
        self._read = clock_of(device)
        self._is_cuda = device.type == "cuda"
        self._started = 0
        self._measured: list[dict[str, float]] = []
        self._is_reported = False

    @contextmanager
    def around_step(self, waited: float) -> Iterator[None]:
        """Surround an optimizer step.

        Args:
            waited: Seconds that the step waited for its images.
        """
        self._started += 1
        if self._started <= WARM_UP or self._is_reported:
            yield
        elif len(self._measured) < MEASURED:
            with self._measure(waited):
                yield
        else:
            with self._trace():
                yield
            self.report()

    @contextmanager
    def _measure(self, waited: float) -> Iterator[None]:
        self._step.clock = clock = PartClock(self._read)
        began = self._read()
        try:
            with metered(self._step.model.stages(), self._read) as stages:
                yield
        finally:
            self._step.clock = NoClock()
        total = self._read() - began
        forward = {f"forward: {name}": edges.total for name, edges in stages.items()}
        parts = dict(clock.seconds)
        parts["forward: rest"] = parts.pop("forward") - sum(forward.values())
        rest = total - sum(clock.seconds.values())
        self._measured.append({WAITING: waited, **forward, **parts, REST: rest})

    @contextmanager
    def _trace(self) -> Iterator[None]:
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._is_cuda else [])]
        with profile(activities=activities) as trace:
            yield
        self._folder.mkdir(exist_ok=True)
        with atomic_write(self._folder / "trace.json") as temporary:
            trace.export_chrome_trace(str(temporary))

    def report(self) -> None:
        """Report what was measured, once; called at the end of a run, too, which may be too short for everything."""
        if self._is_reported:
            return
        self._is_reported = True
        if not self._measured:
            self._reporter.warn(f"--profile: the run ended before step {WARM_UP + 1}, the first one that is measured")
            return
        means = mean_parts(self._measured)
        self._folder.mkdir(exist_ok=True)
        write_json(self._folder / "profile.json", {"steps": len(self._measured), "seconds": means})
        for line in report_lines(means, len(self._measured)):
            self._reporter.message(line)
        self._reporter.message(f"Profile: {self._folder} (open trace.json at https://ui.perfetto.dev)")


def mean_parts(steps: Sequence[Seconds]) -> dict[str, float]:
    """Return the mean seconds of each part, the longest first."""
    names = dict.fromkeys(name for step in steps for name in step)
    means = {name: fmean(step.get(name, 0.0) for step in steps) for name in names}
    return dict(sorted(means.items(), key=lambda item: -item[1]))


def report_lines(seconds: Seconds, steps: int) -> list[str]:
    """Return the report: the time of a step, the share of each part, and what limits the speed."""
    total = sum(seconds.values())
    shares = {name: value / total for name, value in seconds.items()}
    parts = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items() if share >= 0.005)
    waiting = shares[WAITING]
    if waiting >= DATA_BOUND:
        verdict = (
            f"data-bound: the model waits for images {100 * waiting:.0f} % of the time; use more data.workers, "
            "a faster disk or smaller images"
        )
    else:
        longest = max((name for name in shares if name != WAITING), key=lambda name: shares[name])
        verdict = f"compute-bound: more data.workers would not help; the longest part is {longest}"
    return [f"{counted(steps, 'step')} of {total:.3g} s on average: {parts}", f"Verdict: {verdict}"]
