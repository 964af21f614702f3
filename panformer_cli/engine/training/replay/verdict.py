"""What a replayed step shows, and what to do next, in sentences."""

from __future__ import annotations

from panformer_cli.engine.training.replay.replay import SUM, Replay
from panformer_cli.engine.training.step import NO_LOSSES
from panformer_cli.wording import listing

MUCH = 1000.0
"""Normalized images have values of about -3 to 3."""


def findings(replay: Replay) -> list[str]:
    """Return what was found: how the values compare with training, and where the first one is not finite."""
    lines = [_comparison(replay)]
    if replay.weights:
        lines.append(f"Not finite before the step: {listing(replay.weights)}.")
    if not replay.images:
        lines.append("The images of the step are not finite.")
    elif replay.largest_pixel > MUCH:
        lines.append(
            f"The images have values up to {replay.largest_pixel:.3g} after normalization; expected about -3 to 3."
        )
    lines.append(_first(replay))
    if replay.gradients:
        bad = replay.gradients
        lines.append(f"Gradients that are not finite: {len(bad)} of {replay.parameters}: {listing(bad)}.")
    elif replay.parameters:
        lines.append(f"All {replay.parameters} gradients are finite.")
    if replay.watch.gradient is not None and replay.loss is None:
        lines.append(
            f"First gradient that is not finite, going backward: at the output of {replay.watch.gradient}, so it comes "
            "from what uses this output."
        )
    return lines


def _comparison(replay: Replay) -> str:
    step = replay.step
    if replay.is_equal:
        return "All losses equal those in training, bit for bit."
    reason = f": {'; '.join(replay.differs)}" if replay.differs else ", although nothing is known to differ"
    return f"The losses differ from those in training ({step.device}){reason}."


def _first(replay: Replay) -> str:
    """Return where the first value of the forward pass is not finite."""
    if replay.watch.output is not None:
        own = [name for name in replay.weights if name.rpartition(".")[0] == replay.watch.output]
        cause = "its input is finite" if replay.watch.inputs_are_finite else "its input is not finite either"
        cause = f"because of {listing(own)}" if own else cause
        return f"First output that is not finite: {replay.watch.output} ({cause})."
    if replay.loss == NO_LOSSES:
        return "The outputs of all modules are finite, but the costs of matching queries and objects are not."
    if replay.loss == SUM:
        return "All outputs and losses are finite, but the sum of the losses is too large."
    if replay.loss is not None:
        return f"The outputs of all modules are finite; the first loss that is not: {replay.loss}."
    return "All outputs and losses are finite."


def next_step(replay: Replay) -> str:
    """Return what to do after what was found, a phrase."""
    step, lower = replay.step, "a lower train.lr or train.warmup_steps=500"
    check = f"check {listing(step.images)} and the annotation with `panformer prepare-data verify`"
    if replay.weights:
        return f"the weights were not finite before the step, so resume from an earlier checkpoint with {lower}"
    if not replay.images or replay.largest_pixel > MUCH:
        return check
    if replay.watch.output is None and replay.loss is None and not replay.gradients:
        if step.world_size == 1:
            return "the step does not fail here; replay it on the device of the run"
        return (
            f"process {step.rank} does not fail here by itself; replay the files of the other processes, and if none "
            f"of them fails, the sum of their gradients was too large: use {lower}"
        )
    return f"resume from a checkpoint with {lower}, or with train.precision=fp32; if one image is the cause, {check}"
