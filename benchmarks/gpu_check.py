"""Run all GPU checks in one command of at most ten minutes: tests, speed, memory, and a complete run.

    python benchmarks/gpu_check.py --json gpu.json            # also writes gpu.md
    python benchmarks/gpu_check.py --json dry.json --dry-run  # the same on the CPU, with tiny sizes

Needs only a Python with torch: missing packages are installed first, and the installed torch is kept. Every part runs
in its own process group, which is killed at its time limit, so a failure does not affect the other parts. Both files
are rewritten after every part. The exit code is 0 if no part failed.
"""

from __future__ import annotations

import argparse
import configparser
import importlib.metadata
import json
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

REPOSITORY = Path(__file__).resolve().parent.parent
LONGEST = 600
"""Maximum sum of the time limits of all parts, seconds."""
DRY_LIMIT = 6
"""Factor of the time limits in a dry run: a busy CPU is slower than a GPU, even for tiny sizes."""
TAIL = 3000
"""Characters of stdout and of stderr that are kept for each part."""
PANFORMER = ["-m", "panformer_cli"]
SAMPLING_TESTS = "tests/models/layers/sampling/test_triton.py"
TRAINING_TESTS = "tests/engine/training/test_on_gpu.py"
INSTALL, LOOK = 70, 25
"""Time limits in seconds: to install about 250 MB, and to inspect the environment, again after an installation."""

Row = tuple[str, str]
"""What was measured, and the result."""
Status = Literal["passed", "failed", "timed out", "skipped"]

PROBE = """
import importlib.util, json
import torch
found = {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
found["triton"] = getattr(__import__("triton"), "__version__") if importlib.util.find_spec("triton") else None
found["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
if found["gpu"]:
    found["capability"] = ".".join(map(str, torch.cuda.get_device_capability()))
    found["memory_gib"] = round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1)
    found["tf32"] = {"matmul": torch.backends.cuda.matmul.allow_tf32, "cudnn": torch.backends.cudnn.allow_tf32}
import panformer_cli
found["panformer"] = panformer_cli.__version__
try:
    import panformer_cli.engine.training.train
except Exception as error:
    found["import error"] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Part:
    """A part of the check.

    Attributes:
        name: Name in the table.
        words: Arguments of the Python interpreter.
        seconds: Time limit.
        rows: Return the rows of the table for the standard output.
        needs_gpu: Whether it is skipped in a dry run.
    """

    name: str
    words: Sequence[str]
    seconds: float
    rows: Callable[[str], list[Row]]
    needs_gpu: bool = False


@dataclass(frozen=True)
class Outcome:
    """The outcome of a part; `stdout` and `stderr` are truncated, `results` is the JSON on standard output."""

    name: str
    status: Status
    reason: str = ""
    command: str = ""
    limit_seconds: float = 0.0
    seconds: float = 0.0
    exit_code: int | None = None
    rows: list[Row] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)
    stdout: str = ""
    stderr: str = ""


def main() -> int:
    """Run all parts; return 0 if none failed, 2 if nothing can run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), metavar="OUT", help="results [gpu.json]")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--no-install", action="store_true", help="install nothing")
    parser.add_argument("--only", nargs="+", metavar="PART", help="run only these parts, by their names in the table")
    options = parser.parse_args()
    if options.dry_run:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # `finally` then ends the running part
    with tempfile.TemporaryDirectory(prefix="panformer-gpu-") as folder:
        plan = chosen(parts(options.dry_run, Path(folder)), options.only)
        report = Report(options.json)
        environment = prepared(report, Path(folder), not options.no_install)
        obstacle = obstacle_of(environment, options.dry_run)
        if obstacle:
            print(obstacle, file=sys.stderr)
            return 2
        run_all(plan, report, not options.dry_run, Path(folder))
    return report.exit_code


def prepared(report: Report, folder: Path, may_install: bool) -> dict[str, Any]:
    """Install missing packages, and return the environment; empty if torch cannot be imported."""
    environment = look(report, folder)
    if environment and may_install and (missing_packages() or "import error" in environment):
        report.add(install(environment, folder))
        environment = look(report, folder)
    return environment


def chosen(plan: list[Part], names: Sequence[str] | None) -> list[Part]:
    """Return the parts with these names, all for None; exit if a name is unknown."""
    unknown = set(names or ()) - {part.name for part in plan}
    if unknown:
        sys.exit(f"--only: unknown part {', '.join(sorted(unknown))}; choose from {[part.name for part in plan]}")
    return [part for part in plan if names is None or part.name in names]


def obstacle_of(environment: dict[str, Any], dry_run: bool) -> str:
    """Return why nothing can run; empty if it can."""
    if not environment:
        return (
            f"{sys.executable} could not import torch in {LOOK} s; install torch there, or choose another Python with "
            "make gpu PYTHON=..."
        )
    if not environment["gpu"] and not dry_run:
        return "torch finds no GPU on this machine; use --dry-run to run the same parts on the CPU with tiny sizes"
    return ""


def parts(dry: bool, folder: Path) -> list[Part]:
    """Return all parts: correctness first, then speed, the most important first.

    Args:
        dry: Use tiny sizes on the CPU.
        folder: Folder for generated scenes and runs.
    """
    plan = [*test_parts(), *whole_run(dry, folder), *training_parts(dry), *speed_parts(dry)]
    return [replace(part, seconds=DRY_LIMIT * part.seconds) for part in plan] if dry else plan


def test_parts() -> list[Part]:
    """Return all tests marked `gpu`, with those of the kernels and of training as separate parts."""
    pytest = ["-m", "pytest", "-m", "gpu", "-v", "--tb=short", "-p", "no:cacheprovider"]
    others = [name for name in gpu_test_files() if name not in (SAMPLING_TESTS, TRAINING_TESTS)]
    return [
        Part("kernel tests", [*pytest, SAMPLING_TESTS], 52, test_rows),
        Part("training tests", [*pytest, TRAINING_TESTS], 75, test_rows),
        Part("other GPU tests", [*pytest, *others], 38, test_rows),
    ]


def gpu_test_files() -> list[str]:
    """Return the test files with a test marked `gpu`, relative to the repository."""
    files = sorted((REPOSITORY / "tests").rglob("test_*.py"))
    return [str(path.relative_to(REPOSITORY)) for path in files if "pytest.mark.gpu" in path.read_text("utf-8")]


def whole_run(dry: bool, folder: Path) -> list[Part]:
    """Return generating scenes, training, evaluation and prediction with the command line."""
    scenes, run = str(folder / "scenes"), str(folder / "run")
    device = ["--device", "cpu"] if dry else ["--gpus", "1"]
    images = ["--train-images", "8" if dry else "800", "--val-images", "4" if dry else "40"]
    train = [f"data.root={scenes}", f"train.max_steps={2 if dry else 200}", "train.precision=bf16", "data.workers=2"]
    train.append(f"train.warmup_steps={0 if dry else 50}")
    settings = [word for setting in train for word in ("--set", setting)]
    metrics = folder / "evaluation" / "metrics.json"
    return [
        Part("scenes", [*PANFORMER, "prepare-data", "scenes", "--out", scenes, *images], 8, last_line),
        Part("train", [*PANFORMER, "train", "tiny", "--out", run, *device, *settings], 32, last_line),
        Part(
            "evaluate",
            [*PANFORMER, "evaluate", run, "--out", str(metrics.parent), "--batch-size", "4", *device],
            18,
            lambda _: quality_rows(metrics),
        ),
        Part(
            "predict",
            [*PANFORMER, "predict", f"{scenes}/images/val", "--checkpoint", run, "--out", str(folder / "p"), *device],
            12,
            last_line,
        ),
    ]


def training_parts(dry: bool) -> list[Part]:
    """Return the benchmarks of what training can change: memory, precision, and compiled parts."""
    common = [*sized(dry), "--recipe", "tiny" if dry else "r50", "--repeat", "1" if dry else "5"]
    options = ["benchmarks/training_options.py", *common]
    compiled = ["bf16", "bf16, encoder compiled"]
    return [
        Part("training memory r50", ["benchmarks/training_memory.py", *common], 30, memory_rows),
        Part("training options r50", options, 25, option_rows),
        Part("compiled training r50", [*options, "--options", *compiled], 45, option_rows, True),
    ]


def sized(dry: bool) -> list[str]:
    """Return the options of all benchmarks: their device, their format and the size of their images."""
    return ["--device", "cpu" if dry else "cuda", "--json", "--size", "64x64" if dry else "800x1333"]


def speed_parts(dry: bool) -> list[Part]:
    """Return the other benchmarks."""
    r50, swinl = (["--recipe", "tiny" if dry else "r50"], ["--recipe", "swinl", "--formats", "channels_last"])
    batches = ["--batches", "1", *([] if dry else ["16"])]
    precisions = ["--precisions", "fp32", "bf16", *([] if dry else ["fp16"])]
    inference = ["benchmarks/inference.py", *sized(dry), *batches, *precisions]
    step = ["benchmarks/training_step.py", *r50, *sized(dry), "--batch", "2", "--precision", "bf16"]
    benchmark = [*PANFORMER, "benchmark", r50[1], *sized(dry)]
    repeat = ["--repeat", "1" if dry else "5"]
    return [
        Part("deformable attention", ["benchmarks/deformable_attention_gpu.py", "--json"], 35, sampling_rows, True),
        Part("inference r50", [*inference, *repeat, *r50], 30, inference_rows),
        Part("training step r50", [*step, *repeat], 25, step_rows),
        Part("inference swinl", [*inference, *repeat, *swinl], 40, inference_rows),
        Part("benchmark r50", [*benchmark, *repeat], 15, benchmark_rows),
    ]


def run_all(plan: Sequence[Part], report: Report, has_gpu: bool, folder: Path) -> None:
    """Run the parts in order, and report each one when it ends."""
    for part in plan:
        print(f"{part.name} ... ", end="", flush=True, file=sys.stderr)
        skipped = Outcome(part.name, "skipped", "no GPU")
        outcome = skipped if part.needs_gpu and not has_gpu else run_part(part, folder)
        report.add(outcome)
        print(f"{outcome.status} {outcome.reason} ({outcome.seconds:.0f} s)", file=sys.stderr)


def run_part(part: Part, folder: Path) -> Outcome:
    """Run a part until it ends or reaches its limit."""
    command = [sys.executable, *part.words]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=folder) as own:
        streams = [Path(own, name) for name in ("stdout", "stderr")]
        exit_code = run_limited(command, part.seconds, *streams)
        stdout, stderr = (path.read_text(encoding="utf-8", errors="replace") for path in streams)
    rows, problem = part_rows(part, stdout)
    status, reason = verdict(exit_code, part.seconds, stderr or stdout, problem)
    if status == "passed" and rows and all(SKIPPED.fullmatch(result) for _, result in rows):
        status, reason = "skipped", "no GPU"
    return Outcome(
        part.name,
        status,
        reason,
        shlex.join(command),
        part.seconds,
        round(time.monotonic() - began, 1),
        exit_code,
        rows,
        json_objects(stdout),
        stdout[-TAIL:],
        stderr[-TAIL:],
    )


def part_rows(part: Part, stdout: str) -> tuple[list[Row], str]:
    """Return the rows of the table, and the problem with the output, if any."""
    try:
        return part.rows(stdout), ""
    except (LookupError, TypeError, ValueError, OSError) as error:
        return [], f"its output cannot be read ({type(error).__name__}: {error})"


def verdict(exit_code: int | None, limit: float, text: str, problem: str) -> tuple[Status, str]:
    """Return the status of a part, and a short reason; an exit code of None is a timeout."""
    if exit_code is None:
        return "timed out", f"killed after {limit:.0f} s"
    if exit_code:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return "failed", f"exit code {exit_code}: {lines[-1][:200] if lines else 'no output'}"
    return ("failed", problem) if problem else ("passed", "")


def run_limited(command: Sequence[str], seconds: float, stdout: Path, stderr: Path) -> int | None:
    """Return the exit code; at the limit, kill the process and all its children, and return None."""
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    with stdout.open("wb") as out, stderr.open("wb") as err:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        with killed_group(process), suppress(subprocess.TimeoutExpired):
            return process.wait(seconds)
    return None


@contextmanager
def killed_group(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Kill the process group when the context ends in any way."""
    try:
        yield
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def json_objects(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects in a text, which is one object or has one per line."""
    with suppress(ValueError):
        whole = json.loads(text)
        return [whole] if isinstance(whole, dict) else []
    found = []
    for line in text.splitlines():
        if line.startswith("{"):
            with suppress(ValueError):  # a line truncated by a kill
                found.append(json.loads(line))
    return found


SKIPPED = re.compile(r"0 passed, 0 failed, [1-9][0-9]* skipped")


def test_rows(stdout: str) -> list[Row]:
    """Return the numbers of passed, failed and skipped tests so far, and the failed tests."""
    ended = re.findall(r"^(\S+::.+?) (PASSED|FAILED|SKIPPED|ERROR)", stdout, flags=re.M)
    count = {word: sum(status == word for _, status in ended) for word in ("PASSED", "FAILED", "SKIPPED", "ERROR")}
    failed = [(name.rpartition("::")[2], status.lower()) for name, status in ended if status in ("FAILED", "ERROR")]
    summary = f"{count['PASSED']} passed, {count['FAILED'] + count['ERROR']} failed, {count['SKIPPED']} skipped"
    return [("tests", summary), *failed]


def last_line(stdout: str) -> list[Row]:
    """Return the last line of the output."""
    lines = stdout.strip().splitlines()
    return [("last line", lines[-1])] if lines else []


def quality_rows(metrics: Path) -> list[Row]:
    """Return PQ from an evaluation's metrics.json."""
    groups = json.loads(metrics.read_text(encoding="utf-8"))["panoptic"]
    return [(f"PQ, {name}", f"{groups[name]['pq']:.1f}") for name in ("all", "things", "stuff")]


def sampling_rows(stdout: str) -> list[Row]:
    """Return the results of `deformable_attention_gpu.py`."""
    about, *results = json_objects(stdout)
    first = ("largest difference, fp32; a copy", f"{about['largest_difference']:.1e}; {about['copy_rate']:.0f} GB/s")
    return [first] + [
        (
            f"{row['kernel']}, {row['place']}, batch {row['batch']}, {row['dtype']}, {row['step']}",
            f"{row['ms']:.3f} ms, {row['least_rate']:.0f} GB/s",
        )
        for row in results
    ]


def inference_rows(stdout: str) -> list[Row]:
    """Return the results of `inference.py`."""
    return [
        (
            f"{row['recipe']}, {row['size'][0]}x{row['size'][1]}, batch {row['batch']}, {row['precision']}, "
            f"{row['memory_format'].replace('_', ' ')}",
            row.get("error")
            or f"{row['ms']['median']:.1f} ms, {row['images_per_second']:.1f} images/s, {mib(row['peak_memory_mib'])}",
        )
        for row in json_objects(stdout)
    ]


def step_rows(stdout: str) -> list[Row]:
    """Return the results of `training_step.py`."""
    (content,) = json_objects(stdout)
    height, width = content["size"]
    setting = f"{content['recipe']}, {height}x{width}, batch {content['batch']}, {content['precision']}"
    return [
        (f"{setting}, {name}", f"{1000 * figures['step']['median']:.0f} ms, {mib(figures['peak_memory_mib'])}")
        for name, figures in content["samplings"].items()
    ]


def memory_rows(stdout: str) -> list[Row]:
    """Return the results of `training_memory.py`."""
    (content,) = json_objects(stdout)
    height, width = content["size"]
    rows = []
    for row in content["rows"]:
        setting = f"{content['recipe']}, {height}x{width}, {content['precision']}, {row['checkpoint'] or 'nothing'}"
        kept = f"{mib(row['peak'])}, of which {sum(row['kept'].values()):.0f} kept for the backward pass"
        time = f"{1000 * row['seconds']['median']:.0f} ms ({row['ratio']['median']:.2f})"
        rows.append((f"{setting} checkpointed", f"{time}, {kept}, gradients {row['gradient_difference']:.0e}"))
    return rows


def option_rows(stdout: str) -> list[Row]:
    """Return the results of `training_options.py`."""
    rows = []
    for row in json_objects(stdout):
        if "seconds" in row:
            height, width = row["size"]
            result = (
                f"{1000 * row['seconds']['median']:.0f} ms (first step {row['first']:.1f} s), "
                f"{mib(row['peak_memory_mib'])}, loss {row['loss']:.3f}"
            )
            rows.append((f"{row['recipe']}, {height}x{width}, {row['option']}", result))
        if "error" in row:
            rows.append((row["option"], row["error"]))
    return rows


def benchmark_rows(stdout: str) -> list[Row]:
    """Return the results of `panformer benchmark`."""
    (content,) = json_objects(stdout)
    total = f"{content['total']['ms']['median']:.1f} ms, {mib(content['peak_memory_mib'])}"
    stages = [(name.replace("_", " "), f"{stage['ms']['median']:.1f} ms") for name, stage in content["stages"].items()]
    return [("file to result", total), *stages]


def mib(value: float | None) -> str:
    """Return a peak memory as text."""
    return "peak memory unknown" if value is None else f"{value:.0f} MiB"


def look(report: Report, folder: Path) -> dict[str, Any]:
    """Run PROBE, write its result to the head of the report, and return it; empty if it fails."""
    outcome = run_part(Part("environment", ["-c", PROBE], LOOK, lambda _: []), folder)
    found = outcome.results[0] if outcome.results else {}
    report.environment = {
        **found,
        "driver": driver(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "missing packages": ", ".join(missing_packages()) or None,
        "commit": commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
    }
    if not found:
        report.add(outcome)
    report.write()
    return found


def driver() -> str | None:
    """Return the version of NVIDIA's driver from `nvidia-smi`, if there is one."""
    return first_line(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])


def commit() -> str | None:
    """Return the current commit, if there is one."""
    return first_line(["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"])


def first_line(command: Sequence[str]) -> str | None:
    """Return the first line that a command prints within 5 s; None if it fails."""
    with suppress(OSError, subprocess.SubprocessError, IndexError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
        return done.stdout.splitlines()[0]
    return None


def missing_packages() -> list[str]:
    """Return the packages in setup.cfg, including those for tests, that are not installed."""
    config = configparser.ConfigParser()
    config.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    text = config["options"]["install_requires"] + config["options.extras_require"]["test"]
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    return [name for name in filter(None, map(needed_here, lines)) if not is_installed(name)]


def needed_here(requirement: str) -> str | None:
    """Return the package of a line such as `zlib-ng >= 0.5.0 ; platform_machine in "x86_64"`; None on other platforms.

    >>> needed_here("numpy >= 1.26")
    'numpy'
    """
    found, _, marker = requirement.partition(";")
    return None if marker and platform.machine() not in marker else re.split(r"[\s<>=!~\[]", found)[0]


def is_installed(name: str) -> bool:
    """Return whether a package is installed, in any version."""
    importlib.invalidate_caches()
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def install(environment: dict[str, Any], folder: Path) -> Outcome:
    """Install panformer with its test dependencies; pip keeps the installed torch and torchvision."""
    constraints = folder / "constraints.txt"
    kept = {"torch": environment["torch"]}
    if is_installed("torchvision"):
        kept["torchvision"] = importlib.metadata.version("torchvision")
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in kept.items()), encoding="utf-8")
    pip = ["-m", "pip", "install", "--disable-pip-version-check", "--retries", "1", "--timeout", "10"]
    words = [*pip, "--constraint", str(constraints), "--editable", ".[test]"]
    outcome = run_part(Part("install", words, INSTALL, last_line), folder)
    if outcome.status != "passed":
        print(
            f"pip could not install the missing packages ({outcome.reason}); running with the installed ones. Connect "
            "to the network, or install the packages in setup.cfg manually",
            file=sys.stderr,
        )
    return outcome


class Report:
    """The files OUT.json and OUT.md: the environment and the outcomes so far.

    Attributes:
        environment: The environment of the results.
        outcomes: Outcomes in the order of the parts.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.environment: dict[str, Any] = {}
        self.outcomes: list[Outcome] = []

    def add(self, outcome: Outcome) -> None:
        """Add an outcome and rewrite both files."""
        self.outcomes.append(outcome)
        self.write()

    def write(self) -> None:
        """Rewrite both files, each atomically."""
        content = {"environment": self.environment, "parts": [asdict(outcome) for outcome in self.outcomes]}
        replace_text(self._path, json.dumps(content, indent=2) + "\n")
        replace_text(self._path.with_suffix(".md"), self.markdown())

    def markdown(self) -> str:
        """Return the environment as a list and all results as one table."""
        facts = [f"- {name}: {value}" for name, value in self.environment.items() if value is not None]
        lines = [line for outcome in self.outcomes for line in table_lines(outcome)]
        header = ["| part | measured | result |", "| --- | --- | --- |"]
        return "\n".join([*facts, "", *header, *lines, ""])

    @property
    def exit_code(self) -> int:
        return int(any(outcome.status not in ("passed", "skipped") for outcome in self.outcomes))


def table_lines(outcome: Outcome) -> list[str]:
    """Return the rows of the table for one part."""
    status = f"{outcome.status}{', ' if outcome.reason else ''}{outcome.reason}"
    rows = [(f"total, {outcome.seconds:.0f} s", status), *outcome.rows]
    return [f"| {outcome.name} | {cell(what)} | {cell(result)} |" for what, result in rows]


def cell(text: str) -> str:
    """Return text escaped for a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def replace_text(path: Path, text: str) -> None:
    """Write a file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


if __name__ == "__main__":
    sys.exit(main())
