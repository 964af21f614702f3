"""Sends the rows of a run to its trackers, so that none of them can hold up training or end it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from queue import Full, Queue
from types import MappingProxyType
from typing import Any

from panformer_cli.data.structures import ImageArray
from panformer_cli.engine.trackers.names import opener_of
from panformer_cli.engine.trackers.tracker import OpenTracker, Status, TrackedRun, Tracker
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_io import recipe_to_dict
from panformer_cli.reporting import Reporter
from panformer_cli.storage.files import write_json
from panformer_cli.storage.plain_json import parse as parse_json

FOLDER = "trackers"
"""Folder in a run with one JSON for each tracker: the run's id there, and the last step it has of each kind of row."""
WAITING = 200
"""Rows and images that wait for a slow tracker; further ones are not sent to it."""
FINISH_SECONDS = 30.0
"""How long the end of training waits for a tracker that still has something to send."""

_Event = Callable[[Tracker], Tracker | None]
"""What to do with a tracker; may return one to use instead of it from then on."""


class Tracking:
    """The trackers of a run; only rank 0 has one. A tracker that fails is left out with a warning.

    Args:
        senders: One for each tracker.
        reporter: For warnings.
    """

    def __init__(self, senders: Sequence[Sender], reporter: Reporter) -> None:
        self._senders, self._reporter = list(senders), reporter

    def start(self) -> None:
        """Open the run in the trackers.

        The first call comes after the data loading workers have started: a process that forks while another thread
        imports a package can leave the child with a lock that is never released.
        """
        for sender in self._senders:
            if not sender.thread.is_alive() and sender.thread.ident is None:
                sender.thread.start()

    def log(self, row: Mapping[str, Any]) -> None:
        """Send a row of metrics.jsonl."""
        values, step = dict(flattened(row)), int(row["step"])
        for sender in self._senders:
            sender.send(row["kind"], step, lambda tracker: tracker.log(values, step))
            sender.remember(row["kind"], step)
        self._warn()

    def images(self, images: Mapping[str, ImageArray], step: int) -> None:
        """Send images of an evaluation, each (H, W, 3) uint8 RGB."""
        for sender in self._senders:
            sender.send("eval", step, lambda tracker: tracker.images(images, step))

    def roll_back(self, step: int) -> None:
        """Let the trackers know that training returned to an earlier step; see `Sender.roll_back`."""
        for sender in self._senders:
            sender.roll_back(step)

    def finish(self, status: Status) -> None:
        """Send what is left, and close the runs; a tracker that needs more than `FINISH_SECONDS` is given up."""
        self.start()
        for sender in self._senders:
            sender.close(status)
        for sender in self._senders:
            sender.thread.join(FINISH_SECONDS)
            if sender.thread.is_alive():
                sender.problem = f"it did not finish within {FINISH_SECONDS:.0f} s"
        self._warn()

    def _warn(self) -> None:
        for sender in self._senders:
            if sender.problem is not None:
                self._reporter.warn(f"--log {sender.name}: {sender.problem}; training continues without it")
        self._senders = [sender for sender in self._senders if sender.problem is None]


class Sender:
    """A tracker and the thread that talks to it.

    Attributes:
        name: Name of the tracker.
        thread: The thread; it is a daemon, so that a tracker that hangs does not keep the program alive.
        problem: Why the tracker cannot be used any more, a phrase; None as long as it can.
    """

    def __init__(self, name: str, run: TrackedRun, open_run: OpenTracker) -> None:
        self.name, self.problem = name, None
        self.thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._open, self._state = open_run, run.folder / FOLDER / f"{name}.json"
        known = _read_state(self._state)
        self._run = replace(run, id=known.get("id"))
        self._known: dict[str, int] = known.get("steps", {})
        self._sent = dict(self._known)
        self._queue: Queue[_Event | None] = Queue(WAITING)

    problem: str | None

    def send(self, kind: str, step: int, event: _Event) -> None:
        """Pass an event of a step to the tracker, unless it has it from before a resume: steps repeat exactly."""

        def unless_known(tracker: Tracker) -> None:
            if tracker.forgets or step > self._known.get(kind, 0):
                event(tracker)

        self._put(unless_known)

    def remember(self, kind: str, step: int) -> None:
        """Write down that the tracker has everything of this kind up to `step`, once it is sent."""
        self._put(lambda tracker: self._save(tracker, {kind: step}))

    def roll_back(self, step: int) -> None:
        """Open the run again if the tracker can forget the values after `step`; else the steps it has are left out."""

        def back(tracker: Tracker) -> Tracker:
            self._known = dict(self._sent)
            if not tracker.forgets:
                return tracker
            tracker.finish("stopped")
            return self._open(replace(self._run, step=step, id=tracker.id))

        self._put(back)

    def close(self, status: Status) -> None:
        """Close the run after everything is sent."""
        self._put(lambda tracker: tracker.finish(status))
        self._put(None)

    def _put(self, event: _Event | None) -> None:
        try:
            self._queue.put_nowait(event)
        except Full:
            self.problem = f"it is too slow, and {WAITING} entries already wait"

    def _work(self) -> None:
        try:
            tracker = self._open(self._run)
            self._save(tracker)
            for event in iter(self._queue.get, None):
                tracker = event(tracker) or tracker
        except BaseException as error:  # whatever a tracker raises, SystemExit too, concerns only itself
            self.problem = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}".rstrip(": ")

    def _save(self, tracker: Tracker, more: Mapping[str, int] = MappingProxyType({})) -> None:
        self._sent |= {kind: max(step, self._sent.get(kind, 0)) for kind, step in more.items()}
        self._state.parent.mkdir(exist_ok=True)
        write_json(self._state, {"id": tracker.id, "steps": self._sent})


def open_tracking(names: Sequence[str], folder: Path, recipe: Recipe, step: int, reporter: Reporter) -> Tracking:
    """Return the tracking of a run: the trackers `names`, and those that the run had before.

    Args:
        names: Modules of this folder, such as `wandb`.
        folder: The run folder.
        recipe: The run's recipe.
        step: The step after which training continues; 0 for a new run.
        reporter: For warnings.
    """
    settings = dict(flattened_settings(recipe_to_dict(recipe)))
    run = TrackedRun(folder.absolute(), f"{recipe.name} {folder.absolute().name}", settings, step)
    return Tracking([Sender(name, run, opener_of(name)) for name in names], reporter)


@contextmanager
def finishing(tracking: Tracking | None, status: Callable[[], Status]) -> Iterator[None]:
    """Close the run in its trackers at the end of the context: as failed after an error, else with `status`."""
    try:
        yield
    except Exception:
        if tracking is not None:
            tracking.finish("failed")
        raise
    if tracking is not None:
        tracking.finish(status())


def trackers_of(folder: Path) -> list[str]:
    """Return the names of the trackers that a run already has."""
    return sorted(path.stem for path in (folder / FOLDER).glob("*.json"))


def flattened(row: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    """Yield the numbers of a row of metrics.jsonl by names such as `train/losses/dice`."""
    kind = row["kind"]
    for name, value in row.items():
        for inner, number in value.items() if isinstance(value, Mapping) else (("", value),):
            if isinstance(number, int | float) and name != "step":
                yield "/".join(filter(None, (kind, name, inner))), float(number)


def flattened_settings(recipe: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield the settings of a recipe by names such as `train.lr`."""
    for name, value in recipe.items():
        if isinstance(value, Mapping):
            yield from flattened_settings(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _read_state(path: Path) -> dict[str, Any]:
    """Return what `Sender` remembered of a run; empty if there is nothing of use."""
    try:
        state = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(state, dict) or not isinstance(state.get("id"), str | None):
        return {}
    steps = state.get("steps")
    return state if isinstance(steps, dict) and all(isinstance(step, int) for step in steps.values()) else {}
