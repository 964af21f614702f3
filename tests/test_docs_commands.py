"""Every command in the code blocks of the documentation runs.

A `panformer` line runs as it is written, in a folder that has what it names, with these exceptions:

- an absolute path, such as /data/coco, is in the temporary folder (`place`);
- `REPLACED` exchanges a few words, `--gpus N` and `--cpu-processes N` become one process on the CPU, and the options of
  several machines are left out (`arguments`);
- `SMALLER` adds options that make a command quick. They come first, so the line's own options win;
- a training ends after one step.

The lines of a page run in their order, so a line can use the files of earlier ones. Other files are written before the
line that names them. A new line needs an entry only if it names a new input: add it to `INPUTS` in docs_inputs.py,
or to `SOURCES` there for a new source of `prepare-data`. If a command is slow, add an option to `SMALLER`. A line that
cannot run is in `NOT_RUN`, with the reason.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from panformer_cli.data.result_folders import FILES
from panformer_cli.data.scenes.options import SceneOptions
from panformer_cli.engine.checkpoints.checkpoint import read_checkpoint
from panformer_cli.engine.checkpoints.published import PUBLISHED
from panformer_cli.engine.runs import RunFolder
from panformer_cli.prepare.coco import download as coco_download
from panformer_cli.prepare.coco.download import Archive
from tests.conftest import REPOSITORY
from tests.docs_inputs import BEFORE, INPUTS, OVERRIDES, SOURCES, coco_zips, label_photos, save_random
from tests.helpers import run
from tests.storage.file_server import FileServer
from tests.test_docs import DATA, PAGES, command_lines, commands, section

SETTINGS = [word for setting in OVERRIDES for word in ("--set", setting)]
SMALLER: dict[str, list[str]] = {
    "train": SETTINGS,
    "demo": ["--images", "8", *SETTINGS, "--set", "train.max_steps=1"],
    "benchmark": ["--size", "64x64", "--repeat", "1"],
    "evaluate robustness": ["--images", "1"],
    "prepare-data scenes": ["--train-images", "8", "--val-images", "4"],
}
"""Options that make a command quick, added after its name."""

REPLACED = {
    "SOURCE": "labelme",
    "S": "train",
    "N": "1",
    "AREA": "1",
    # Names that a server prescribes, and numbers of images: the small COCO has three per split.
    "FILE.zip": "panoptic_val2017_mine_results.zip",
    "5000": "2",
    "2000": "1",
}
"""Words that stand for something else, and numbers that are too large."""

SECTION_FOLDERS = ("ROOT", "DIR", "IN", "OUT", "STUFF")
"""Folders that mean something else in each section of a page."""

SEVERAL_MACHINES = ("--nodes", "--node-rank", "--rendezvous", "--max-restarts")

OUTPUTS = ("--out", "--report", "--submission")
"""Options with the path of something that the command writes."""
RESULTS: dict[str, tuple[str, ...]] = {
    "demo": ("scenes", "run/best.safetensors", "evaluation/metrics.json", "predictions/overlays", "report/index.html"),
    "evaluate": ("metrics.json", "analysis.json", "records.jsonl"),
    "evaluate robustness": ("robustness.json",),
    "predict": ("panoptic.json", "overlays"),
    "prepare-data": ("manifest.json", "summary.json", "summary.html"),
    "prepare-data export": ("",),  # the files depend on the format
    "prepare-data scenes": ("annotations/panoptic_train.json", "annotations/panoptic_val.json"),
    "train": ("last.safetensors", "recipe.yaml", "metrics.jsonl"),
    "visualize": ("index.html",),
    "weights average": ("",),  # a file
    "weights import": ("model.safetensors", "recipe.yaml"),
}
"""Files and folders that each command writes to `--out`, according to the docs."""
PACKAGES = {"--cross-check": "panopticapi"}
"""Options that need a package that may be missing."""

ADVICE = (
    "Correct the line. Or, if it names something that is missing here, add a file or folder to INPUTS in "
    "tests/docs_inputs.py, and another placeholder to REPLACED in tests/test_docs_commands.py."
)
ALL_PAGES = [*PAGES, REPOSITORY / "CONTRIBUTING.md"]
LINES = {page: command_lines(page.read_text(encoding="utf-8")) for page in ALL_PAGES}

INSTALLS = "changes the environment in which the tests run; tests/test_packaging.py installs the package"
FROM_HUB = "downloads a model from the Hugging Face Hub"
IMAGENET_WEIGHTS = shlex.join(["python", "-c", "import timm; timm.create_model('resnet50.tv_in1k', pretrained=True)"])
NOT_RUN = {
    "pip install .": INSTALLS,
    "pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu": INSTALLS,
    "pip install --no-deps panopticapi-lite": INSTALLS,
    "pip uninstall --yes opencv-python": INSTALLS,
    "pip install opencv-python-headless": INSTALLS,
    "python3 -m venv .venv": INSTALLS,
    "pip install 'panformer[tensorboard]'": INSTALLS,
    "panformer predict https://host/a.jpg --out results --checkpoint r50": "reads an image from a server",
    "panformer predict s3://bucket/photos --out /shared/results --checkpoint r50 --engine ray": "reads an object store",
    "panformer predict photos/ --out /shared/results --checkpoint r50 --engine ray --actors 8 --actor-cpus 4 "
    "--actor-gpus 0.5 --resume": "needs a cluster with 32 CPUs and 4 GPUs",
    "pip install 'panformer[hub]'": INSTALLS,
    "pip install 'panformer[hf]'": INSTALLS,
    "panformer train tiny --init-from demo/run/best.safetensors --set data.root=demo/scenes --set train.max_steps=400 "
    "--set train.lr=3e-4 --set data.crop_probability=0.75 --set 'data.crop_short_sides=[128]' "
    "--set 'data.crop_range=[80,128]' --set 'data.train_short_sides=[96,112,128]'": "trains for minutes, from a run "
    "that took minutes, too",
    "panformer weights push runs/a --repo USER/NAME --license apache-2.0 --data-name 'Street scenes'": "uploads to the "
    "Hugging Face Hub; tests/cli/test_weights_push.py uploads to a stand-in",
    "panformer predict photos/ --out viz/ --checkpoint hub:USER/NAME": FROM_HUB,
    "panformer evaluate hf:facebook/mask2former-swin-tiny-coco-panoptic --data /data/coco --split val2017": FROM_HUB,
    "panformer evaluate knet_r50 --data /data/coco --split val2017": "downloads weights whose hash is known",
    "panformer evaluate compare evaluation/r50 evaluation/knet_r50": "compares an evaluation of these weights",
    IMAGENET_WEIGHTS: "downloads ImageNet weights from the Hugging Face Hub",
}
"""Lines that do not run, with the reason."""


@pytest.fixture(scope="session")
def published_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Small versions of COCO's zips and of the published weights, by file name."""
    folder = tmp_path_factory.mktemp("published")
    coco_zips(folder / "coco")
    save_random(folder / "weights.pth")
    weights = dict.fromkeys((row.file for row in PUBLISHED.values()), (folder / "weights.pth").read_bytes())
    return weights | {path.name: path.read_bytes() for path in (folder / "coco").iterdir()}


@pytest.fixture
def world(
    published_files: dict[str, bytes], server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run in an empty folder, with an empty cache, and download only from a local server."""

    def small(archive: Archive) -> Archive:
        content = published_files[archive.name]
        return archive._replace(size=len(content), sha256=hashlib.sha256(content).hexdigest())

    server.named = published_files
    for name, row in PUBLISHED.items():
        monkeypatch.setitem(PUBLISHED, name, replace(row, sha256=None))  # the small files have other hashes
    for split, archive in coco_download.IMAGES.items():
        monkeypatch.setitem(coco_download.IMAGES, split, small(archive))
    monkeypatch.setattr(coco_download, "PANOPTIC", small(coco_download.PANOPTIC))
    monkeypatch.setattr(coco_download, "TEST_INFO", small(coco_download.TEST_INFO))
    for name, row in PUBLISHED.items():  # the small files have other hashes
        monkeypatch.setitem(PUBLISHED, name, replace(row, sha256=None))
    _, _, *others = SceneOptions.__init__.__defaults__ or ()  # `demo` has no option for the number of validation scenes
    monkeypatch.setattr(SceneOptions.__init__, "__defaults__", (8, 4, *others))
    monkeypatch.setenv("PANFORMER_COCO_URL", server.url)
    monkeypatch.setenv("PANFORMER_WEIGHTS_URL", server.url)
    monkeypatch.setenv("PANFORMER_HOME", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def place(word: str) -> str:
    """Return a word, or a setting, with an absolute path moved into the folder `root`."""
    return re.sub("(^|=)/", rf"\1{Path.cwd()}/root/", word)


def without_brackets(line: Sequence[str]) -> list[str]:
    """Return a line with its optional parts, which are in brackets: `[--split S]` are the words `[--split` and `S]`."""
    opened = [re.sub(r"^\[(.*?)\]?$", r"\1", word) for word in line]
    return [word.removesuffix("]") if "[" not in word else word for word in opened]


def value_of(option: str, line: Sequence[str]) -> str | None:
    """Return the value of an option in a line, None if it is not given."""
    return next((value for given, value in pairwise(line) if given == option), None)


def command_in(table: Collection[str], line: Sequence[str]) -> str:
    """Return the key of the table, a command with or without its subcommand, that fits the line; empty if none does."""
    return next((name for name in (" ".join(line[:2]), line[0]) if name in table), "")


def arguments(line: Sequence[str]) -> list[str]:
    """Return the arguments with which a line runs here."""
    words = [REPLACED.get(word, place(word)) for word in line]
    for option in SEVERAL_MACHINES:
        if option in words:
            del words[words.index(option) : words.index(option) + 2]
    for index, word in enumerate(words):
        if word in ("--gpus", "--cpu-processes"):
            words[index : index + 2] = ["--cpu-processes", "1"]
    if "--replay" in line:  # without other options
        return words
    name = command_in(SMALLER, line)
    start = len(name.split())
    words[start:start] = SMALLER.get(name, [])
    if line[0] == "train":
        words[1:1] = ["--set", f"train.max_steps={steps_before(line) + 1}"]
    return words


def steps_before(line: Sequence[str]) -> int:
    """Return the completed steps of the run that a line resumes, or 0."""
    if "--resume" not in line:
        return 0
    run = RunFolder(Path(place(value_of("--out", line) or value_of("--resume", line) or "")))
    return read_checkpoint(run.last).progress.step if run.last.is_file() else 0


def write_inputs(line: Sequence[str]) -> None:
    """Write the inputs of a line that do not exist; a converter starts with a new input and no output."""
    command, *others = [REPLACED.get(word, word) for word in line]
    root, out = value_of("--root", line), value_of("--out", line)
    if command == "prepare-data" and others[0] in SOURCES:
        for folder in filter(None, (root, out)):
            shutil.rmtree(place(folder), ignore_errors=True)
        if root and "--download" not in line:
            SOURCES[others[0]](Path(place(root)))
    for before, word in pairwise(["", *line]):
        path = Path(word.rpartition("=")[2])
        for name in [] if before in OUTPUTS else (*reversed(path.parents), path):
            write, here = INPUTS.get(str(name)), Path(place(str(name)))
            if write and not here.exists():
                here.parent.mkdir(parents=True, exist_ok=True)
                write(here)
    BEFORE.get(shlex.join(line), lambda: None)()


def results(line: Sequence[str]) -> Iterator[Path]:
    """Yield files and folders that a line must write."""
    if "--dry-run" in line or (line[0] == "predict" and "--resume" in line):  # the results are complete already
        return
    if "--slurm" in line:
        yield Path(f"{line[1]}.sbatch")
        return
    for option, value in pairwise(line):
        path = Path(REPLACED.get(value, place(value)))
        if option == "--out" and line[:2] == ["predict", "clip.mp4"]:
            yield path / "videos/clip.json"
        elif option == "--out" and "--save" in line and line[0] == "predict":
            yield path / FILES
        elif option == "--out":
            yield from (path / name for name in RESULTS[command_in(RESULTS, line)])
        elif option in OUTPUTS:
            yield path / "index.html" if option == "--report" else path
    if line[1:2] in (["coco"], ["custom"]) and (root := value_of("--root", line)) and "--out" not in line:
        split = value_of("--split", line) or ""
        names = (f"images/{split}",) if split.startswith("test") else RESULTS["prepare-data"]
        yield from (Path(place(root), name) for name in names)


def state(path: Path) -> tuple[int, int] | None:
    return (path.stat().st_ino, path.stat().st_mtime_ns) if path.exists() else None


def check_line(line: Sequence[str], page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run a line. It must succeed, and write what it says."""
    if any(find_spec(package) is None for option, package in PACKAGES.items() if option in line):
        return
    write_inputs(line)
    before = {path: state(path) for path in results(line)}
    what = f"{page.name}: `panformer {shlex.join(line)}`"
    code = run(*arguments(line))
    printed = capsys.readouterr()
    assert code == 0, f"{what} ended with exit code {code}. {ADVICE}\n{printed.out}{printed.err}"
    missing = [str(path) for path, was in before.items() if state(path) == was]
    assert not missing, f"{what} did not write {missing}; expected the RESULTS of this command"
    if line[0] == "train" and not {"--slurm", "--dry-run", "--replay"} & {*line}:
        assert Path(printed.out.rpartition("Best checkpoint: ")[2].strip()).is_file(), what


def check_command(line: Sequence[str], page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Check a line with its program."""
    match line:
        case ["panformer", *words]:
            check_line(without_brackets(words), page, capsys)
        case ["torchrun", *words]:  # tests/engine/distributed/test_torchrun.py starts it
            launched = get_args_parser().parse_args(words)
            assert launched.module and launched.training_script == "panformer_cli", page.name
            check_line(launched.training_script_args, page, capsys)
        case ["make", target]:
            makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
            assert re.search(rf"^\.PHONY:.* {target}\b", makefile, flags=re.M), f"{page.name}: make {target}"
        case ["python", script, *options] if script.startswith("benchmarks/"):  # minutes of work, or heavy imports
            text = (REPOSITORY / script).read_text(encoding="utf-8")
            assert [word for word in options if word.startswith("--") and f'"{word}"' not in text] == []
        case ["python", *words]:
            subprocess.run([sys.executable, *words], cwd=REPOSITORY, check=True, capture_output=True)
        case _:
            pytest.fail(f"{page.name}: add a case for `{shlex.join(line)}`, or add it to NOT_RUN with the reason")


@pytest.mark.slow
@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("page", [page for page in LINES if LINES[page]], ids=lambda page: page.name)
def test_the_commands_of_a_page_run(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in re.split("^(?=##)", page.read_text(encoding="utf-8"), flags=re.M):
        for name in SECTION_FOLDERS:
            shutil.rmtree(name, ignore_errors=True)
        for line in command_lines(text):
            if shlex.join(line) not in NOT_RUN:
                check_command(line, page, capsys)


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("line", ["predict nowhere --out out", "weights list --no-such-option", "trian r50"])
def test_an_unknown_input_or_option_is_reported_with_advice(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    expected = f"new.md: `panformer {line}` ended with exit code 2. {ADVICE}"
    with pytest.raises(AssertionError, match=f"^{re.escape(expected)}"):
        check_line(line.split(), Path("new.md"), capsys)


@pytest.mark.slow
@pytest.mark.usefixtures("world")
def test_a_missing_result_is_reported(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    line = ["prepare-data", "labelme", "--root", "photos", "--out", "data/all"]
    check_line(line, Path("new.md"), capsys)
    monkeypatch.setattr("tests.test_docs_commands.run", lambda *arguments: 0)
    with pytest.raises(AssertionError, match="labelme --root photos --out data/all` did not write"):
        check_line(line, Path("new.md"), capsys)


def test_the_tables_name_only_what_is_in_the_docs() -> None:
    lines = [line for page_lines in LINES.values() for line in page_lines]
    written = {shlex.join(line) for line in lines}
    assert NOT_RUN.keys() <= written
    assert BEFORE.keys() <= {line.removeprefix("panformer ") for line in written}
    words = {word for line in lines for part in without_brackets(line) for word in (part, part.rpartition("=")[2])}
    assert REPLACED.keys() <= words
    assert [name for name in INPUTS if not any(f"{word}/".startswith(f"{name}/") for word in words)] == []


@pytest.mark.slow
def test_your_own_data_in_five_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    label_photos(tmp_path / "photos", 8)
    printed = {}
    listed = commands(section(DATA.read_text(encoding="utf-8"), "Your own data in five minutes"))
    assert [words[0] for words in listed] == ["prepare-data"] * 3 + ["train", "evaluate", "predict"]
    for words in listed:
        capsys.readouterr()
        assert run(*words) == 0, words
        printed[words[1] if words[0] == "prepare-data" else words[0]] = capsys.readouterr().out
    assert printed["verify"] == "train: 8 images, 24 segments, no errors found\n"
    assert (tmp_path / "data/all/summary.html").is_file()
    held_out = json.loads((tmp_path / "data/mine/annotations/panoptic_val.json").read_text())
    assert len(held_out["images"]) == 2
    assert {row["name"]: row["isthing"] for row in held_out["categories"]} == {"car": 1, "person": 1, "road": 0}
    assert re.search(r"^ all +\d+\.\d ", printed["evaluate"], flags=re.M)
    for name in ("things", "stuff", "car", "person", "road"):
        assert re.search(rf"^ {name} ", printed["evaluate"], flags=re.M)
    names = {f"street{number}" for number in range(1, 9)}
    assert {path.stem for path in (tmp_path / "pictures/overlays").iterdir()} == names
    assert len(json.loads((tmp_path / "pictures/panoptic.json").read_text())["annotations"]) == 8
    assert list((tmp_path / "runs/tiny").glob("*/best.safetensors"))
