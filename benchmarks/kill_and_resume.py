"""Kill a training run at random moments, resume it each time, and compare it with an undisturbed run, bit for bit.

    python benchmarks/kill_and_resume.py --stops 20
    python benchmarks/kill_and_resume.py --stops 6 --signals TERM HUP USR1 --after-row --longest 4

The run has two processes, data loading workers, accumulated gradients, dropout and an average of the weights, and
saves every few seconds. Every start is the same command with `--resume auto`. Without `--after-row`, stops can also
hit the start of the program, the first write or the resume, and on a slow machine most of them do.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from panformer_cli.data.scenes.generator import write_scenes
from panformer_cli.data.scenes.options import SceneOptions
from panformer_cli.reporting import SilentReporter

SETTINGS = (
    "model.embed_dim=64",
    "model.heads=4",
    "model.feedforward_dim=64",
    "model.encoder_layers=1",
    "model.location_layers=1",
    "model.thing_mask_layers=1",
    "model.stuff_mask_layers=1",
    "model.thing_queries=10",
    "model.dropout=0.1",
    "data.short_side=64",
    "data.long_side=64",
    "data.train_short_sides=[64]",
    "data.workers=2",
    "train.batch_size=8",
    "train.images_per_forward=2",
    "train.ema_decay=0.9",
    "train.epochs=1000",
    "train.evaluate_every=5",
    "train.log_every=3",
    "train.save_minutes=0.03",
)
TIMES = ("seconds", "speed")
"""Values of a row that differ when a run is repeated."""


def command(data: Path, out: Path, steps: int) -> list[str]:
    """Return the command line of the run."""
    settings = [f"data.root={data}", f"train.max_steps={steps}", *SETTINGS]
    words = ["train", "tiny", "--cpu-processes", "2", "--resume", "auto", "--out", str(out)]
    return [sys.executable, "-m", "panformer_cli", *words, *(word for text in settings for word in ("--set", text))]


def start(data: Path, out: Path, steps: int) -> subprocess.Popen[bytes]:
    """Start the run in a process group of its own; its output goes to a file beside `out`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with out.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            command(data, out, steps), stdout=log, stderr=log, env=environment, start_new_session=True
        )


def finish(data: Path, out: Path, steps: int) -> float:
    """Let the run end, and return its seconds.

    Raises:
        SystemExit: It failed.
    """
    began = time.monotonic()
    if start(data, out, steps).wait():
        raise SystemExit(f"the run failed:\n{out.with_suffix('.log').read_text()[-2000:]}")
    return time.monotonic() - began


def processes_of(launcher: int) -> list[int]:
    """Return the ids of a process and everything that it started: ranks have process groups of their own."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [launcher]
    for pid in found:  # grows while it is read
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def wait_for_row(run: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait until the run logs a row or ends. A resume first deletes the rows after its checkpoint."""
    least = math.inf
    while run.poll() is None:
        log = folder / "metrics.jsonl"
        number = log.read_bytes().count(b"\n") if log.is_file() else 0
        if number > least:
            return
        least = min(least, number)
        time.sleep(0.05)


def stop(run: subprocess.Popen[bytes], number: signal.Signals) -> bool:
    """Send a signal to the run, to all of its processes if it kills; return whether it was still running."""
    if run.poll() is not None:
        return False
    for pid in processes_of(run.pid) if number == signal.SIGKILL else [run.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    run.wait()
    return True


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return everything in a checkpoint: weights, their average, optimizer and random states."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)


def rows(run: Path) -> list[dict[str, Any]]:
    """Return the log without times."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in row.items() if name not in TIMES} for row in lines]


def differences(one: Path, other: Path) -> list[str]:
    """Return what differs between two runs; values are compared bit for bit."""
    found = []
    for name in ("last.safetensors", "best.safetensors"):
        if not (one / name).is_file() and not (other / name).is_file():
            continue  # no evaluation was the best one: PQ was 0 in all
        if not ((one / name).is_file() and (other / name).is_file()):
            found.append(f"{name}: only in one of the runs")
            continue
        first, second = tensors(one / name), tensors(other / name)
        if first.keys() != second.keys():
            found.append(f"{name}: other tensors")
        found += [
            f"{name}: {key}" for key, value in first.items() if key in second and not torch.equal(value, second[key])
        ]
    if rows(one) != rows(other):
        found.append("metrics.jsonl")
    return found


def main() -> None:
    """Run the comparison and print its outcome."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stops", type=int, default=20)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--signals", nargs="+", default=["KILL"], help="names without SIG; one is drawn for each stop")
    parser.add_argument("--longest", type=float, default=20.0, help="most seconds from a start to a stop [20]")
    parser.add_argument("--after-row", action="store_true", help="count them from the first row that a start logs")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        data, plain, disturbed = (Path(folder, name) for name in ("data", "plain", "disturbed"))
        write_scenes(data, SceneOptions(40, 6, height=64, width=64, image_format="png"), SilentReporter())
        print(f"undisturbed: {arguments.steps} steps, {finish(data, plain, arguments.steps):.0f} s", flush=True)
        reached: Counter[str] = Counter()
        while reached.total() < arguments.stops:
            name = draw.choice(arguments.signals)
            run, moment = start(data, disturbed, arguments.steps), draw.uniform(0.5, arguments.longest)
            if arguments.after_row:
                wait_for_row(run, disturbed)
            time.sleep(moment)
            if not stop(run, signal.Signals[f"SIG{name}"]):
                print(f"the run ended after {reached.total()} stops; use more --steps")
                break
            reached[name] += 1
            lines = rows(disturbed) if (disturbed / "metrics.jsonl").is_file() else [{"step": 0}]
            since = " of training" if arguments.after_row else ""
            print(
                f"SIG{name} after {moment:.1f} s{since}, last row of step {lines[-1]['step'] if lines else 0}",
                flush=True,
            )
        finish(data, disturbed, arguments.steps)
        left = sorted(path.name for path in disturbed.iterdir() if path.name.startswith("."))
        found = differences(plain, disturbed)
        print(f"stops: {dict(reached)}; differences: {found or 'none'}; temporary files left: {left or 'none'}")
        raise SystemExit(bool(found or left))


if __name__ == "__main__":
    main()
