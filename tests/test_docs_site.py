"""The documentation site: it builds without a warning, and what its pages quote is what the program does."""

from __future__ import annotations

import ast
import html
import importlib.util
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from PIL import Image

import panformer
from panformer_cli.cli.main import program
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.opencv import cv2
from panformer_cli.data.scenes.generator import write_scenes
from panformer_cli.data.scenes.options import SceneOptions
from panformer_cli.engine.distributed.slurm import Job
from panformer_cli.models.families import FAMILIES
from panformer_cli.recipe import Recipe
from panformer_cli.reporting import SilentReporter
from panformer_cli.settings import DataSettings, TrainSettings
from tests.conftest import REPOSITORY
from tests.helpers import run

DOCS = REPOSITORY / "docs"
LEAST_LITERAL = 15
"""Literal characters that a string of the code needs before it can explain a quoted message."""
LEAST_PIECE = 12
"""Literal characters that it needs in one piece: `... is ...: expected ...` would explain almost any message."""

needs_mkdocs = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("mkdocs", "mkdocstrings")),
    reason="mkdocs is not installed: pip install '.[docs]'",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the site, built as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def text_of(page: Path) -> str:
    """Return what a page shows, as plain text."""
    body = re.sub(r"<(script|style)\b.*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.S)
    return text_of_html(body)


def text_of_html(source: str) -> str:
    """Return a piece of a page as plain text."""
    return html.unescape(re.sub(r"<[^>]*>", "", source))


def all_commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Yield a command and its subcommands, each with the words that call it."""
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=name)
        for word in command.list_commands(context):
            found = command.get_command(context, word)
            assert found is not None
            yield from all_commands(found, f"{name} {word}")


@needs_mkdocs
@pytest.mark.slow
def test_the_commands_page_has_every_option_of_every_command(site: Path) -> None:
    text = text_of(site / "commands" / "index.html")
    found = dict(all_commands(program, "panformer"))
    sections = {}
    for name in found:
        parts = re.findall(rf"^\s*{re.escape(name)}¶\n(.*?)(?=^\s*panformer [\w -]+¶\n|\Z)", text, flags=re.S | re.M)
        sections[name] = "".join(parts)
    assert [name for name, section in sections.items() if not section and name != "panformer"] == []
    lacking = [
        (name, option)
        for name, command in found.items()
        for parameter in command.params
        if isinstance(parameter, click.Option) and name != "panformer"
        for option in parameter.opts
        if not re.search(rf"{re.escape(option)}\b", sections[name])
    ]
    assert lacking == []
    assert len(found) > 30


@needs_mkdocs
@pytest.mark.slow
def test_the_python_page_has_every_name_of_the_interface_with_its_signature(site: Path) -> None:
    page = (site / "python" / "index.html").read_text(encoding="utf-8")
    headings = {
        text_of_html(heading).split()[0]: text_of_html(rest)
        for heading, rest in re.findall(r"<h3 id=.*?>(.*?)</h3>(.*?)(?=<h3 id=|</article>)", page, flags=re.S)
    }
    for name in panformer.__all__:
        value = getattr(panformer, name)
        if name == "__version__":
            continue
        text = " ".join(headings[f"panformer.{name}"].split())
        first = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split()).replace("`", "")
        assert first[:60] in text, name
        if inspect.isfunction(value):
            assert all(parameter in text for parameter in inspect.signature(value).parameters), name
        elif inspect.isclass(value):
            methods = [key for key, item in vars(value).items() if key[0] != "_" and inspect.isfunction(item)]
            assert all(f"{method}(" in text for method in methods), name


@needs_mkdocs
@pytest.mark.slow
def test_the_settings_page_has_every_setting_with_its_meaning(site: Path) -> None:
    text = text_of(site / "settings" / "index.html")
    sections: list[tuple[str, Any]] = [("", Recipe), ("data.", DataSettings), ("train.", TrainSettings)]
    for family in FAMILIES.values():
        sections += [("model.", family.model_settings), ("inference.", family.inference_settings)]
    names = [prefix + field.name for prefix, part in sections for field in fields(part) if field.default is not MISSING]
    assert [name for name in names if not re.search(rf"^\s*{re.escape(name)}$", text, flags=re.M)] == []
    assert len(names) > 40


@needs_mkdocs
@pytest.mark.slow
def test_no_page_of_the_site_is_a_placeholder(site: Path) -> None:
    pages = [page for page in site.rglob("index.html") if page.parent.name != "log"]
    assert len(pages) >= 20
    short = [str(page) for page in pages if len(re.sub(r"\s+", " ", text_of(page))) < 2000]
    assert short == []


def code_blocks(page: str, language: str) -> list[str]:
    """Return the fenced blocks of a language on a page."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [body for name, body in re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.S | re.M) if name == language]


def quoted_messages() -> Iterator[tuple[str, str]]:
    """Yield the errors and warnings that the pages quote in blocks of their own: page and message, on one line."""
    for path in sorted(DOCS.glob("*.md")):
        for block in code_blocks(path.name, ""):
            if block.startswith(("Error: ", "Warning: ")):
                yield path.name, " ".join(block.split()).partition(": ")[2]


def message_patterns() -> list[re.Pattern[str]]:
    """Return a pattern for every string of the package that could be a message; a filled-in value has no semicolon."""
    patterns = []
    for path in (REPOSITORY / "panformer_cli").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node] if isinstance(node, ast.Constant) else []
            texts = [str(part.value) if isinstance(part, ast.Constant) else None for part in parts]
            lengths = [len(text) for text in texts if text]
            if sum(lengths) >= LEAST_LITERAL and max(lengths) >= LEAST_PIECE:
                patterns.append(re.compile("".join("[^;]*" if text is None else re.escape(text) for text in texts)))
    return patterns


def unexplained(message: str, patterns: list[re.Pattern[str]]) -> str:
    """Return what of a message no string of the code gives."""
    covered = [False] * len(message)
    for pattern in patterns:
        if found := pattern.search(message):
            covered[found.start() : found.end()] = [True] * (found.end() - found.start())
    return "".join(letter for letter, done in zip(message, covered, strict=True) if not done)


@pytest.mark.slow
def test_quoted_messages_are_those_of_the_code() -> None:
    patterns = message_patterns()
    quoted = list(quoted_messages())
    wrong = [f"{page}: {rest!r} of {text}" for page, text in quoted if (rest := unexplained(text, patterns))]
    assert "\n".join(wrong) == ""
    assert len(quoted) > 10


@pytest.mark.slow
def test_the_examples_of_the_python_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    scenes = Path("demo/scenes")
    write_scenes(scenes, SceneOptions(train_images=4, val_images=2), SilentReporter())
    settings = ["data.root=demo/scenes", "train.max_steps=1", "train.warmup_steps=0", "data.workers=0"]
    settings.append("inference.score_threshold=0")
    words = [word for setting in settings for word in ("--set", setting)]
    assert run("train", "tiny", "--out", "demo/run", *words) == 0
    Path("photos").mkdir()
    for name in ("photo.jpg", "photos/a.jpg", "photos/b.jpg"):
        shutil.copy(scenes / "images/val/000000.jpg", name)
    _write_labels(Path("labels"))
    clip = cv2.VideoWriter("clip.mp4", cv2.VideoWriter.fourcc(*"mp4v"), 5, (64, 64))
    for _ in range(2):
        clip.write(np.zeros((64, 64, 3), np.uint8))
    clip.release()
    capsys.readouterr()
    one, several, video, stages = code_blocks("python.md", "python")
    page: dict[str, Any] = {}
    exec(compile(one, "python.md", "exec"), page)
    lines = capsys.readouterr().out.splitlines()
    names = [row.name for row in CocoPanoptic(scenes, "val").categories.categories]
    assert lines and all(re.fullmatch(rf"\d+: ({'|'.join(names)}), \d\.\d\d, \d+ pixels", line) for line in lines)
    assert Path("out/overlays/photo.jpg").is_file()
    exec(compile(several, "python.md", "exec"), page)
    found = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in found] == ["photos/a.jpg", "photos/b.jpg"]
    exec(compile(video, "python.md", "exec"), page)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["0", "1"]
    exec(compile(stages, "python.md", "exec"), page)
    written = json.loads((page["run"].folder / "evaluation/metrics.json").read_text())["panoptic"]
    assert capsys.readouterr().out.startswith(f"PQ {written['all']['pq']:.1f}, things ")
    assert page["prepared"].splits["train"].images == 1


def _write_labels(folder: Path) -> None:
    """Write an image with its labels, as labelme does."""
    folder.mkdir()
    Image.new("RGB", (40, 30)).save(folder / "a.png")
    shapes = [
        {"label": name, "points": [[0, top], [40, top], [40, top + 9]], "shape_type": "polygon"}
        for top, name in ((0, "sky"), (20, "road"))
    ]
    content = {"imagePath": "a.png", "imageHeight": 30, "imageWidth": 40, "shapes": shapes}
    (folder / "a.json").write_text(json.dumps(content))


def test_the_writer_of_predictions_gives_what_evaluate_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_scenes(Path("scenes"), SceneOptions(train_images=1, val_images=2), SilentReporter())
    (block,) = code_blocks("other_tools.md", "python")
    names: dict[str, Any] = {}
    exec(compile(block, "other_tools.md", "exec"), names)
    samples = list(CocoPanoptic(Path("scenes"), "val"))
    predictions = [
        (
            sample.image_id,
            f"{number}.png",
            sample.annotation.ids,
            {segment.id: segment.category_id for segment in sample.annotation.segments},
        )
        for number, sample in enumerate(samples)
    ]
    names["write_predictions"]("predictions.json", predictions)
    annotation = "scenes/annotations/panoptic_val.json"
    assert run("evaluate", "predictions", "predictions.json", "--annotations", annotation, "--json") == 0
    assert json.loads(capsys.readouterr().out)["panoptic"]["all"]["pq"] == 100


def test_the_decoder_of_the_formats_page_gives_the_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scenes(tmp_path, SceneOptions(train_images=1, val_images=1), SilentReporter())
    (tmp_path / "annotations" / "panoptic_val").rename(tmp_path / "panoptic")
    monkeypatch.chdir(tmp_path)
    (block,) = code_blocks("formats.md", "python")
    names: dict[str, Any] = {}
    exec(compile(block, "formats.md", "exec"), names)
    (tmp_path / "panoptic").rename(tmp_path / "annotations" / "panoptic_val")
    assert np.array_equal(names["ids"], CocoPanoptic(tmp_path, "val")[0].annotation.ids)


def slurm_script() -> str:
    """Return the batch file of the page about several GPUs, as if it were written in another environment."""
    words = ["train", "r50", "--out", "/shared/runs/r50", "--set", "data.root=/shared/data/coco"]
    words += ["--set", "train.batch_size=16", "--set", "train.lr=2.8e-4"]
    text = Job.parse("r50", "nodes=2,gpus=8,cpus=48,mem=0,time=24:00:00").text(words, "/shared/runs/r50")
    text = text.replace(shlex.quote(sys.executable), "/shared/panformer/.venv/bin/python")
    return text.replace(f"cd {shlex.quote(str(Path.cwd()))}\n", "cd /shared/work\n")


def test_the_batch_script_is_the_one_that_is_written_and_valid_bash(tmp_path: Path) -> None:
    (script,) = code_blocks("several_gpus.md", "bash")
    assert script == slurm_script()
    path = tmp_path / "train.sbatch"
    path.write_text(script)
    checked = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")
