"""The meter of waiting and computing, against a clock that the test sets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from panformer_cli.engine.training.watching.meter import Speed, SpeedMeter


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run(times: list[tuple[float, float]], take_after: list[int]) -> list[Speed | None]:
    """Return what `take` returns after the given steps of a run; `times` has (waiting, computing) of each step."""
    clock, taken = Clock(), []
    meter = SpeedMeter(clock)

    def batches() -> Iterator[float]:
        for waiting, computing in times:
            clock.now += waiting
            yield computing

    for step, computing in enumerate(meter.waiting(batches()), start=1):
        with meter.computing():
            clock.now += computing
        clock.now += 100.0  # an evaluation, which counts as neither
        if step in take_after:
            taken.append(meter.take())
    return taken


def test_the_first_step_is_left_out() -> None:
    """Workers start in it: its 5 s of waiting would make every run look as if it waited for data."""
    (speed,) = run([(5.0, 9.0), (1.0, 3.0), (2.0, 2.0)], [3])
    assert speed == Speed(1.5, 2.5)
    assert (speed.step, speed.waiting_share) == (4.0, 1.5 / 4)


def test_a_row_has_the_steps_since_the_last_one() -> None:
    assert run([(5.0, 5.0), (1.0, 1.0), (3.0, 1.0), (1.0, 1.0)], [1, 2, 4]) == [
        Speed(5.0, 5.0),  # there is no other step yet
        Speed(1.0, 1.0),
        Speed(2.0, 1.0),
    ]


def test_no_step_gives_no_speed() -> None:
    assert SpeedMeter().take() is None


def test_without_time_nothing_is_waiting() -> None:
    assert Speed(0.0, 0.0).waiting_share == pytest.approx(0.0)
