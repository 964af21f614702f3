"""How much quality is left on corrupted images: PQ under the sixteen corruptions of COCO-C.

Each finished corruption is kept in a file of its own, so an interrupted measurement goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np

from panformer_cli.data.corruptions import (
    CORRUPTIONS,
    CORRUPTIONS_BY_GROUP,
    SEVERITIES,
    check_corruptions,
    check_severities,
    corrupt,
)
from panformer_cli.data.corruptions.frost_texture import frost_source
from panformer_cli.data.structures import Sample
from panformer_cli.engine.evaluation.evaluate import Samples
from panformer_cli.engine.evaluation.result_store import Figures, ResultStore
from panformer_cli.errors import PanformerError
from panformer_cli.models.published import PublishedRobustness
from panformer_cli.reporting import Reporter

CLEAN = "clean"
"""Names the images as they are, where otherwise a corruption is named."""


@dataclass(frozen=True)
class ChosenImages:
    """Some images of a split: those at `indices`, in that order."""

    samples: Samples
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int, /) -> Sample:
        return self.samples[self.indices[index]]


@dataclass(frozen=True)
class CorruptedImages:
    """A split whose images are corrupted as they are read; annotations stay.

    What is drawn by chance belongs to (seed, severity, corruption, image id): not to the order or the process.
    """

    samples: Samples
    corruption: str
    severity: int
    seed: int

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int, /) -> Sample:
        sample = self.samples[index]
        return replace(sample, image=corrupt(sample.image, self.corruption, self.severity, self.seed, sample.image_id))


@dataclass(frozen=True)
class RobustnessOptions:
    """What to measure.

    corruptions: names of `CORRUPTIONS`. severities: of 1..5; the PQ of a corruption is the mean over them.
    images: how many, drawn by the seed; None for all. seed: 0 or more, of that choice and of the corruptions.
    """

    corruptions: tuple[str, ...] = CORRUPTIONS
    severities: tuple[int, ...] = SEVERITIES
    images: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_corruptions(self.corruptions)
        check_severities(self.severities)
        if not self.corruptions or not self.severities:
            raise PanformerError("no corruption or no severity was chosen; expected at least one of each")
        if self.images is not None and self.images < 1:
            raise PanformerError(f"the number of images is {self.images}; expected 1 or more")
        if self.seed < 0:
            raise PanformerError(f"the seed is {self.seed}; expected 0 or more")


@dataclass(frozen=True)
class CorruptionRow:
    """One corruption: its group in the paper's table, and PQ in percent, of each severity and their mean.

    paper: what the paper gives, where the model is one of its own.
    """

    corruption: str
    group: str
    pq: float
    by_severity: dict[int, float]
    paper: float | None


@dataclass(frozen=True)
class Robustness:
    """PQ in percent on clean and corrupted images.

    mean: of the rows. kept: the mean as a share of clean, percent; 0 where clean is 0.
    frost: what the frost was made of (`frost_texture`). paper: the paper's figures of the model.
    """

    images: int
    clean: float
    mean: float
    kept: float
    rows: tuple[CorruptionRow, ...]
    frost: str
    paper: PublishedRobustness | None

    def to_json(self) -> dict[str, Any]:
        """Return all of it as it is read from JSON: lists, and objects with text as keys."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return content


def measure_robustness(
    samples: Samples,
    evaluate_images: Callable[[Samples], Figures],
    options: RobustnessOptions,
    store: ResultStore,
    reporter: Reporter,
    paper: PublishedRobustness | None = None,
) -> Robustness:
    """PQ of clean images, then of each corruption at each severity; what `store` has already is not measured again.

    evaluate_images: measures a split. Where processes share the images, all of them call this function.

    Raises:
        PanformerError: `store` has figures of other settings.
    """
    chosen = ChosenImages(samples, choose_images(options.images, options.seed, len(samples)))
    store = store.of_settings(seed=options.seed, images=len(chosen), of=len(samples))
    if "frost" in options.corruptions and frost_source() == "generated":
        reporter.warn("frost is generated here, not the published photographs; `pip install imagecorruptions` has them")

    def measured(corruption: str, severity: int) -> float:
        images = chosen if corruption == CLEAN else CorruptedImages(chosen, corruption, severity, options.seed)
        figures = store.read(corruption, severity)
        if figures is None:
            figures = evaluate_images(images)
            store.write(corruption, severity, figures)
        reporter.message(f"{corruption}{f', severity {severity}' if severity else ''}: PQ {figures['pq']:.1f}")
        return float(figures["pq"])

    clean = measured(CLEAN, 0)
    by_name = {name: {step: measured(name, step) for step in options.severities} for name in options.corruptions}
    rows = tuple(_row(name, by_severity, paper) for name, by_severity in by_name.items())
    mean = fmean(row.pq for row in rows)
    kept = 100 * mean / clean if clean else 0.0
    return Robustness(len(chosen), clean, mean, kept, rows, frost_source(), paper)


def choose_images(count: int | None, seed: int, total: int) -> tuple[int, ...]:
    """`count` of `total` indices in ascending order, drawn by `seed`; all of them for None or where there are fewer.

    Of one seed, a smaller choice is part of every larger one.
    """
    drawn = np.random.default_rng(seed).permutation(total)[:count]
    return tuple(sorted(drawn.tolist()))


def parse_corruptions(text: str) -> tuple[str, ...]:
    """Names out of `all`, or out of a list such as `fog,snow`, each once.

    Raises:
        PanformerError: there is no such corruption, or the list is empty.
    """
    if text.strip() == "all":
        return CORRUPTIONS
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise PanformerError(f"the list of corruptions {text!r} is empty; expected all, or names such as fog,snow")
    check_corruptions(names)
    return names


def parse_severities(text: str) -> tuple[int, ...]:
    """Numbers out of `3`, `1-5` or `1,3,5`, ascending, each once.

    Raises:
        PanformerError: it is of another form, or a number is not in 1..5.
    """
    severities: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not (first.isdecimal() and (last or first).isdecimal()) or part.strip().endswith("-"):
            raise PanformerError(f"the severity is {text!r}; expected a number 1 to 5, or several such as 1-5 or 1,3")
        check_severities((int(first), int(last or first)))
        severities |= set(range(int(first), int(last or first) + 1))
    if not severities:
        raise PanformerError(f"the severity {text!r} runs backwards; expected the smaller number first, such as 1-5")
    return tuple(sorted(severities))


def _row(corruption: str, by_severity: dict[int, float], paper: PublishedRobustness | None) -> CorruptionRow:
    group = next(name for name, row in CORRUPTIONS_BY_GROUP.items() if corruption in [each.__name__ for each in row])
    given = paper.pq[CORRUPTIONS.index(corruption)] if paper else None
    return CorruptionRow(corruption, group, fmean(by_severity.values()), by_severity, given)
