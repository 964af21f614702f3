"""Robustness: PQ under the sixteen corruptions of COCO-C.

The result of each corruption is saved to its own file, so an interrupted evaluation can be resumed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
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
from panformer_cli.engine.evaluation.result_store import ResultStore, Scores
from panformer_cli.errors import PanformerError
from panformer_cli.metrics.quality import shown
from panformer_cli.models.published import PublishedRobustness
from panformer_cli.pages.base import format_number
from panformer_cli.reporting import Reporter

CLEAN = "clean"
"""Name of the uncorrupted images, used in place of a corruption."""


@dataclass(frozen=True)
class ChosenImages:
    """A subset of a split: the images at `indices`, in that order."""

    samples: Samples
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int, /) -> Sample:
        return self.samples[self.indices[index]]


@dataclass(frozen=True)
class CorruptedImages:
    """A split whose images are corrupted when they are read; annotations do not change.

    Random draws depend on (seed, severity, corruption, image id), not on the order or the process.
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
    """What to evaluate.

    Attributes:
        corruptions: Names from `CORRUPTIONS`.
        severities: From 1..5. The PQ of a corruption is the mean over them.
        images: Number of images, drawn at random; None for all.
        seed: Seed of that choice and of the corruptions, 0 or more.
    """

    corruptions: tuple[str, ...] = CORRUPTIONS
    severities: tuple[int, ...] = SEVERITIES
    images: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_corruptions(self.corruptions)
        check_severities(self.severities)
        if not self.corruptions or not self.severities:
            raise PanformerError("no corruption or no severity was given; expected at least one of each")
        if self.images is not None and self.images < 1:
            raise PanformerError(f"the number of images is {self.images}; expected 1 or more")
        if self.seed < 0:
            raise PanformerError(f"the seed is {self.seed}; expected 0 or more")


@dataclass(frozen=True)
class CorruptionRow:
    """The result of one corruption.

    Attributes:
        corruption: Name of the corruption.
        group: Its group in the paper's table.
        pq: Mean PQ over the severities, in percent; None if there are no classes at any of them.
        by_severity: PQ of each severity, in percent; None if neither predictions nor ground truth have a segment.
        paper: PQ in the paper, in percent; None if the model is not from the paper.
    """

    corruption: str
    group: str
    pq: float | None
    by_severity: dict[int, float | None]
    paper: float | None


@dataclass(frozen=True)
class Robustness:
    """PQ in percent on clean and corrupted images.

    Attributes:
        images: Number of images.
        clean: PQ on clean images; None if there are no classes.
        mean: Mean PQ of the rows; None if there are no classes.
        kept: The mean relative to clean, in percent; 0 if clean is 0, and None if one of them is None.
        rows: One per corruption.
        frost: Source of the frost texture (`frost_texture`).
        paper: Results of the model in the paper, if it is there.
    """

    images: int
    clean: float | None
    mean: float | None
    kept: float | None
    rows: tuple[CorruptionRow, ...]
    frost: str
    paper: PublishedRobustness | None

    def to_json(self) -> dict[str, Any]:
        """Return all fields as JSON has them, with lists for tuples and strings for keys."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return content


def measure_robustness(
    samples: Samples,
    evaluate_images: Callable[[Samples], Scores],
    options: RobustnessOptions,
    store: ResultStore,
    reporter: Reporter,
    paper: PublishedRobustness | None = None,
) -> Robustness:
    """Evaluate clean images, then each corruption at each severity, unless `store` already has the scores.

    Args:
        samples: The split.
        evaluate_images: Return the scores of a split. If several processes share the images, all of them call it.
        options: What to evaluate.
        store: Scores that were already computed; new ones are added.
        reporter: Shows the progress.
        paper: Results of the model in the paper, if it is there.

    Raises:
        PanformerError: `store` has results of other settings.
    """
    chosen = ChosenImages(samples, choose_images(options.images, options.seed, len(samples)))
    store = store.of_settings(seed=options.seed, images=len(chosen), of=len(samples))
    if "frost" in options.corruptions and frost_source() == "generated":
        reporter.warn(
            "frost uses a generated texture, not the published photographs; `pip install imagecorruptions` to use them"
        )

    def score(corruption: str, severity: int) -> float | None:
        images = chosen if corruption == CLEAN else CorruptedImages(chosen, corruption, severity, options.seed)
        scores = store.read(corruption, severity)
        if scores is None:
            scores = evaluate_images(images)
            store.write(corruption, severity, scores)
        pq = shown(scores)["pq"]
        reporter.message(f"{corruption}{f', severity {severity}' if severity else ''}: PQ {format_number(pq)}")
        return None if pq is None else float(pq)

    clean = score(CLEAN, 0)
    by_name = {name: {level: score(name, level) for level in options.severities} for name in options.corruptions}
    rows = tuple(_row(name, by_severity, paper) for name, by_severity in by_name.items())
    mean = _mean(row.pq for row in rows)
    kept = None if mean is None or clean is None else 100 * mean / clean if clean else 0.0
    return Robustness(len(chosen), clean, mean, kept, rows, frost_source(), paper)


def choose_images(count: int | None, seed: int, total: int) -> tuple[int, ...]:
    """Return `count` of `total` indices, drawn at random, in ascending order; all if `count` is None or larger.

    With the same seed, a smaller choice is a subset of every larger one.
    """
    drawn = np.random.default_rng(seed).permutation(total)[:count]
    return tuple(sorted(drawn.tolist()))


def parse_corruptions(text: str) -> tuple[str, ...]:
    """Return the names in a list such as `fog,snow`, without duplicates; all corruptions for `all`.

    Raises:
        PanformerError: A corruption does not exist, or the list is empty.
    """
    if text.strip() == "all":
        return CORRUPTIONS
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise PanformerError(f"the list of corruptions {text!r} is empty; expected all, or names such as fog,snow")
    check_corruptions(names)
    return names


def parse_severities(text: str) -> tuple[int, ...]:
    """Return the numbers in `3`, `1-5` or `1,3,5` in ascending order, without duplicates.

    Raises:
        PanformerError: The text has another form, or a number is not in 1..5.
    """
    severities: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not (first.isdecimal() and (last or first).isdecimal()) or part.strip().endswith("-"):
            raise PanformerError(f"the severity is {text!r}; expected a number 1 to 5, or several such as 1-5 or 1,3")
        check_severities((int(first), int(last or first)))
        severities |= set(range(int(first), int(last or first) + 1))
    if not severities:
        raise PanformerError(f"the severity range {text!r} is reversed; expected the smaller number first, such as 1-5")
    return tuple(sorted(severities))


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are not None; None if all are."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _row(corruption: str, by_severity: dict[int, float | None], paper: PublishedRobustness | None) -> CorruptionRow:
    group = next(name for name, row in CORRUPTIONS_BY_GROUP.items() if corruption in [each.__name__ for each in row])
    paper_pq = paper.pq[CORRUPTIONS.index(corruption)] if paper else None
    return CorruptionRow(corruption, group, _mean(by_severity.values()), by_severity, paper_pq)
