"""The folder of a run: its files, and finding a run or a checkpoint."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from panformer_cli.engine.checkpoints.hub_models import find_hub_model, is_hub_reference
from panformer_cli.engine.checkpoints.model_folders import find_model_folder, is_model_folder, is_reference
from panformer_cli.engine.checkpoints.published import PUBLISHED, fetch_published, published_at
from panformer_cli.engine.claimed_folder import LOCK
from panformer_cli.errors import CheckpointError, PanformerError
from panformer_cli.models.published import PublishedWeights
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_io import recipe_to_yaml
from panformer_cli.reporting import Reporter
from panformer_cli.storage.files import atomic_write, write_json, write_text, writing
from panformer_cli.storage.hub import HubReference, hub_name

_LOG = logging.getLogger(__name__)

RUNS = Path("runs")

STEP_NAME = re.compile(r"step-(\d+)\.safetensors")
BAD_STEP_NAME = re.compile(r"bad-step-\d+(-rank-\d+)?\.safetensors")

EARLIER_RECIPE = "recipe-before-step-{}.yaml"
"""The recipe until the run was resumed after this step with other settings."""

IMPORTED = "model.safetensors"
"""The checkpoint in a folder that `panformer weights import` wrote."""


@dataclass(frozen=True)
class RunFolder:
    """The files of a run (docs/formats.md, "Run folder")."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def last(self) -> Path:
        return self.path / "last.safetensors"

    @property
    def best(self) -> Path:
        return self.path / "best.safetensors"

    @property
    def lock(self) -> Path:
        """Held while a process trains in this folder (`claimed_run`)."""
        return self.path / LOCK

    @property
    def step_checkpoints(self) -> list[Path]:
        """The kept checkpoints of earlier steps, step-<n>.safetensors, by step."""
        found = (path for path in self.path.glob("step-*.safetensors") if STEP_NAME.fullmatch(path.name))
        return sorted(found, key=self.step_of)

    @staticmethod
    def step_of(path: Path) -> int:
        """Return the step in the name of a kept checkpoint."""
        match = STEP_NAME.fullmatch(path.name)
        assert match is not None, "one of `step_checkpoints`"
        return int(match[1])

    def step_checkpoint(self, step: int) -> Path:
        """Return the path at which the checkpoint of a step is kept."""
        return self.path / f"step-{step}.safetensors"

    @property
    def bad_steps(self) -> list[Path]:
        """The files of the first step that was skipped, one for each process concerned (`BadStep`)."""
        found = self.path.glob("bad-step-*.safetensors")
        return sorted(path for path in found if BAD_STEP_NAME.fullmatch(path.name) and path.is_file())

    def bad_step(self, step: int, rank: int | None) -> Path:
        """Return the path of the file for a skipped step; `rank` is None for a run with a single process."""
        suffix = "" if rank is None else f"-rank-{rank}"
        return self.path / f"bad-step-{step}{suffix}.safetensors"

    @property
    def recipes(self) -> list[Path]:
        """The recipe, and those that were changed when the run was resumed."""
        return [path for path in (self.recipe, *sorted(self.path.glob(EARLIER_RECIPE.format("*")))) if path.is_file()]

    @property
    def is_resumable(self) -> bool:
        """Whether there is a file to resume from."""
        return self.last.is_file() or bool(self.step_checkpoints)

    @property
    def starts(self) -> list[dict[str, Any]]:
        """The records in environment.json, one for each start; empty if it is missing or corrupt."""
        try:
            records = json.loads(self.environment.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        return [record for record in (records if isinstance(records, list) else [records]) if isinstance(record, dict)]

    @property
    def checkpoint(self) -> Path | None:
        """The best checkpoint, else the last, else the one from `panformer weights import`, else None."""
        return next((path for path in (self.best, self.last, self.path / IMPORTED) if path.is_file()), None)

    @property
    def saved(self) -> int:
        """Time of the last checkpoint, in nanoseconds; 0 if there is none."""
        path = self.last if self.last.is_file() else self.checkpoint
        return path.stat().st_mtime_ns if path else 0

    def start(self, recipe: Recipe, record: dict[str, Any]) -> None:
        """Create the folder, write the recipe to it, and add a record of this start to environment.json.

        The recipe of an earlier start is kept under another name if it differs.

        Args:
            recipe: The recipe from now on.
            record: What this start depends on, ready for JSON. `step` is the step that it resumes after, from 0.

        Raises:
            PanformerError: The folder cannot be written.
        """
        starts = self.starts
        if not self.is_resumable:
            self.forget_after(-1, -1)
            for path in self.bad_steps:  # of a run that is started again from its beginning
                with suppress(OSError):
                    path.unlink()
            starts = []
        text = recipe_to_yaml(recipe)
        if starts and self.recipe.is_file() and (before := self.recipe.read_text(encoding="utf-8")) != text:
            write_text(self.path / EARLIER_RECIPE.format(record["step"]), before)
        write_text(self.recipe, text)
        write_json(self.environment, [*starts, record])

    def write_recipe(self, recipe: Recipe) -> None:
        """Replace recipe.yaml.

        Raises:
            PanformerError: The file cannot be written.
        """
        write_text(self.recipe, recipe_to_yaml(recipe))

    def log(self, row: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl.

        Raises:
            PanformerError: The line cannot be written; the file is unchanged.
        """
        line = (json.dumps(row) + "\n").encode()
        with (
            writing(self.metrics, "free some space and continue with --resume"),
            self.metrics.open("ab", buffering=0) as file,
        ):
            size = file.tell()
            try:
                while line:  # a disk that is almost full takes a part
                    line = line[file.write(line) :]
            except OSError:
                file.truncate(size)
                raise

    def forget_after(self, step: int, evaluated_step: int) -> None:
        """Delete the lines of metrics.jsonl that a resumed run writes again.

        Args:
            step: The step that it resumes after.
            evaluated_step: The last evaluation that it does not repeat.
        """
        if not self.metrics.is_file():
            return
        last = {"eval": evaluated_step}
        lines = [(line, *_kind_and_step(line)) for line in self.metrics.read_text(encoding="utf-8").splitlines()]
        kept = [line for line, kind, at in lines if at <= last.get(kind, step)]
        with atomic_write(self.metrics) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def run_to_resume(name: str, out: Path | None) -> RunFolder:
    """Return the run in `out`, or the newest run of the recipe `name` that has a checkpoint to resume from.

    Raises:
        PanformerError: The run does not exist.
    """
    if out is not None:
        run = RunFolder(out)
        if not run.is_resumable:
            raise PanformerError(f"--resume: {out} has no last.safetensors; give the folder of a run, or omit --resume")
        return run
    candidates = [run for run in _runs_below(RUNS / name) if run.is_resumable]
    if not candidates:
        raise PanformerError(
            f"--resume: there is no run of {name} in {RUNS / name}; omit --resume, or give the folder of the run: "
            "--resume RUN"
        )
    return candidates[-1]


def runs_of(name: str) -> list[RunFolder]:
    """Return the runs of a recipe in runs/, also those without a checkpoint; the last one to save comes last."""
    runs = [RunFolder(path.parent) for path in (RUNS / name).glob("*/recipe.yaml")]
    return sorted(runs, key=lambda run: (run.saved, run.path))


def check_results_folder(out: Path) -> None:
    """Raise PanformerError if `out` is a file, or the folder of a training run, which results would clutter."""
    if out.exists() and not out.is_dir():
        raise PanformerError(f"--out {out} is a file; expected a folder")
    if RunFolder(out).recipe.exists():
        raise PanformerError(f"--out {out} has a training run; choose another folder, such as {out / 'results'}")


def find_checkpoint(
    given: Path | None,
    reporter: Reporter,
    default: str | None = None,
    announce: Callable[[str], None] | None = None,
) -> Path:
    """Return the checkpoint file that the user means.

    An existing path has priority over published weights of the same name, unless it is a folder without a checkpoint.

    Args:
        given: A file, the folder of a run, the name of published weights, the folder of a model as saved by
            transformers, `hf:FOLDER`, `hf:OWNER/NAME[@REVISION]`, a model of panformer on the Hub as
            `hub:USER/NAME[@REVISION]`, or None for the newest run.
        reporter: Shows the download of published weights.
        default: Published weights to use if `given` is None and there is no run.
        announce: Called with `Checkpoint: PATH`, and why this one if the user named none, before anything else.

    Raises:
        CheckpointError: `given` is neither a file nor the name of weights, or it is None and there is no run.
        DownloadError: The weights cannot be downloaded.
    """
    for is_meant, find in ((is_reference, find_model_folder), (is_hub_reference, find_hub_model)):
        if given is not None and is_meant(given):
            if announce is not None:
                announce(f"Checkpoint: {given}")
            return find(given, reporter)
    path, weights, reason = _chosen(given, default)
    if announce is not None:
        announce(f"Checkpoint: {path}{f' ({reason})' if reason else ''}")
    _LOG.debug("Checkpoint %s", path.absolute())
    return path if weights is None else fetch_published(weights, reporter)


def check_can_be_changed(given: Path) -> None:
    """Raise CheckpointError if an argument names a model that transformers saved, before it is downloaded."""
    if is_reference(given) or (given.is_dir() and is_model_folder(given)):
        raise CheckpointError(
            f"checkpoint {given}: models that transformers saved can be run (predict, evaluate, benchmark), but not "
            "trained, imported or averaged; give a checkpoint of panformer"
        )


def published_weights_of(given: Path) -> PublishedWeights | None:
    """Return the published weights that `find_checkpoint` would return for an argument; None for other checkpoints.

    Raises:
        CheckpointError: `given` is neither a file nor the name of weights.
    """
    return None if is_hub_reference(given) else _chosen(given, None)[1]


def _chosen(given: Path | None, default: str | None) -> tuple[Path, PublishedWeights | None, str]:
    """Return the path of a checkpoint, the published weights that it is, and why it was chosen."""
    if given is None:
        return _newest_checkpoint(default)
    if given.is_dir() and (found := RunFolder(given).checkpoint) and not is_model_folder(given):
        return found, None, ""
    if str(given) in PUBLISHED and not given.is_file():
        weights = PUBLISHED[str(given)]
        return weights.path, weights, ""
    if given.exists():
        return given, None, ""
    close = get_close_matches(str(given).lower(), PUBLISHED, n=1)
    guess = f"did you mean {close[0]}? " if close else _guess_of_hub(given)
    raise CheckpointError(
        f"checkpoint {given}: no such file; {guess}give a checkpoint, the folder of a run or published weights "
        f"({', '.join(PUBLISHED)})"
    )


def _guess_of_hub(given: Path) -> str:
    """Return a question if an argument has the form of a repository of the Hugging Face Hub, or ""."""
    try:
        HubReference.parse(given.as_posix())
    except CheckpointError:
        return ""
    if given.suffix in (".safetensors", ".pth", ".pt") or given.parent.exists():
        return ""
    return f"for a model of the Hugging Face Hub, give hf:{given} (transformers) or hub:{given} (panformer); otherwise "


def results_folder(checkpoint: Path) -> Path:
    """Return the default folder for an evaluation: beside the checkpoint or in its folder, but not in a cache."""
    weights = published_at(checkpoint)
    name = weights.name if weights else hub_name(checkpoint) or hub_name(checkpoint.parent)
    if name is not None:
        return Path("evaluation", name)
    return (checkpoint if checkpoint.is_dir() else checkpoint.parent) / "evaluation"


def newest_checkpoint_name(default: str | None) -> str:
    """Return the checkpoint of the newest run as a path, else the published weights `default`, as a person reads it.

    Raises:
        CheckpointError: There is no run and no default.
    """
    path, weights, reason = _newest_checkpoint(default)
    return weights.name if weights is not None else f"{path} ({reason})"


def _newest_checkpoint(default: str | None) -> tuple[Path, PublishedWeights | None, str]:
    if runs := _runs_below(RUNS):
        newest = runs[-1].checkpoint
        assert newest is not None, "the run was found by its checkpoint"
        return newest, None, "newest run"
    if default is not None:
        weights = PUBLISHED[default]
        return weights.path, weights, f"the published weights {default}, since there is no run in {RUNS.absolute()}"
    raise CheckpointError(
        f"no checkpoint was given and there is no run in {RUNS.absolute()}; give one, or the name of published weights "
        f"({', '.join(PUBLISHED)}), or train first: panformer train RECIPE"
    )


def _runs_below(folder: Path) -> list[RunFolder]:
    """Return the runs in `folder` at any depth that have a checkpoint, the one that wrote its last checkpoint last."""
    seen: set[Path] = set()
    runs = []
    for base, inner, _ in os.walk(folder, followlinks=True):
        run, place = RunFolder(Path(base)), Path(os.path.realpath(base))
        if place in seen:  # links in a circle
            inner.clear()
        elif run.checkpoint is not None:
            runs.append(run)
        seen.add(place)
    return sorted(runs, key=lambda run: (run.saved, run.path))


def _kind_and_step(line: str) -> tuple[str, float]:
    try:
        row = json.loads(line)
        return str(row["kind"]), float(row["step"])
    except (ValueError, KeyError, TypeError):
        return "", float("inf")  # a line that was truncated when the run was stopped
