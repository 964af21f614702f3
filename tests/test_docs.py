"""The documentation is complete, and its paths and links exist. test_docs_commands.py runs its commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from panformer_cli.cli.evaluate import evaluate
from panformer_cli.cli.evaluate.checkpoint import checkpoint
from tests.conftest import REPOSITORY
from tests.golden.conftest import TABLES

DATA = REPOSITORY / "docs" / "data.md"
ARCHITECTURE = REPOSITORY / "docs" / "architecture.md"
MODEL = REPOSITORY / "docs" / "model.md"
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
PACKAGE = REPOSITORY / "panformer_cli"
HOMES = {path.name for folder in (REPOSITORY, PACKAGE) for path in folder.iterdir() if path.is_dir()} - {"data"}
"""First folders of the project's paths; `data/` is also a folder of users, so only its modules are checked."""
FOREIGN = {
    "createPanopticImgs.py",
    "cityscapesscripts/evaluation/evalPanopticSemanticLabeling.py",
    "panopticapi/evaluation.py",
    "prepare_ade20k_pan_seg.py",
}
"""Modules of other projects that are mentioned in the docs."""
PROGRAMS = {"panformer", "python", "python3", "torchrun", "make", "pip"}
"""Programs whose command lines in code blocks are checked (tests/test_docs_commands.py)."""
GENERATED = {"commands.md", "settings.md"}
"""Pages of the site that `tools/docs_hooks.py` writes."""


def command_lines(text: str) -> list[list[str]]:
    """Return the words of each command in the code blocks of a page, for the programs in `PROGRAMS`."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.S | re.M)
    joined = [block.replace("\\\n", "") for language, block in blocks if not language]
    lines = [line for block in joined for line in block.splitlines() if line.partition(" ")[0] in PROGRAMS]
    return [shlex.split(line, comments=True) for line in lines]


def commands(text: str) -> list[list[str]]:
    """Return the words after `panformer` of each command in the code blocks of a page."""
    return [words for program, *words in command_lines(text) if program == "panformer"]


def section(text: str, title: str) -> str:
    """Return the text below a heading, up to the next heading of any level."""
    (found,) = re.findall(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", text, flags=re.S | re.M)
    return str(found)


def named_paths(line: str, in_block: bool, all_folders: bool) -> list[str]:
    """Return the project's paths in a line: in code spans, or anywhere in a code block.

    all_folders: Whether every word that ends in a slash is a folder of the project.
    """
    code = [line] if in_block else re.findall(r"`([^`]+)`", line)
    words = [word.lstrip("(").rstrip(".,;:)") for part in code for word in part.split()]
    return [
        word
        for word in words
        if word.endswith(".py") or (all_folders and word.endswith("/")) or ("/" in word and word.split("/")[0] in HOMES)
    ]


def wrong_paths(text: str, all_folders: bool = False) -> Iterator[str]:
    """Yield the project's paths in a page that do not exist.

    A path is relative to the repository, to the package, to a folder mentioned earlier in its paragraph or list item,
    or, in a tree of folders, to the folders above it. `<name>` matches any name.
    """
    default = re.findall(r"All files without a folder are in `([^`]*)`", text)
    always = [REPOSITORY, PACKAGE, *(PACKAGE / folder for folder in default)]
    in_block = False
    mentioned: list[tuple[int, Path]] = []  # indentation in a code block (0 elsewhere), and the folder
    for line in text.splitlines():
        if line.startswith("```") or not line.strip():
            in_block ^= line.startswith("```")
            mentioned = []
            continue
        if line.startswith("- "):
            mentioned = []
        indent = len(line) - len(line.lstrip()) if in_block else 0
        if in_block:
            mentioned = [(other, folder) for other, folder in mentioned if other < indent]
        for word in named_paths(line, in_block, all_folders):
            if word in FOREIGN:
                continue
            pattern = re.sub("<[^>]*>", "*", word.rstrip("/"))
            homes = [*(folder for _, folder in reversed(mentioned)), *always]
            found = next((path for home in homes for path in home.glob(pattern)), None)
            if found is None or (word.endswith("/") and not found.is_dir()):
                yield word
            else:
                mentioned.append((indent, found if found.is_dir() else found.parent))


@pytest.mark.parametrize("mark", TABLES)
def test_the_tables_of_the_fidelity_page_are_complete_and_within_limits(mark: str) -> None:
    text = (REPOSITORY / "docs" / "fidelity.md").read_text(encoding="utf-8")
    (body,) = re.findall(f"<!-- {mark} -->\n(.*?)\n<!-- end {mark} -->", text, flags=re.S)
    header, _, *rows = [line[2:-2].split(" | ") for line in body.splitlines()]
    assert header == ["stage", *TABLES[mark], "limit"]
    assert len(rows) >= 6
    for _, *cells, limits in rows:
        assert len(cells) == len(TABLES[mark])
        numbers = [float(cell) for cell in cells if cell]
        assert numbers
        assert max(numbers) <= max(map(float, limits.split(" to ")))


@pytest.mark.parametrize("page", [*PAGES, REPOSITORY / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_the_paths_and_links_of_a_page_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert list(wrong_paths(text, all_folders=page == ARCHITECTURE)) == []
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]*)\)", text) if "://" not in link]
    assert [link for link in links if link and link not in GENERATED and not (page.parent / link).exists()] == []


def test_modules_of_other_projects_are_mentioned() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in FOREIGN if f"`{name}`" not in text] == []


WRONG = {
    "another folder": ("`models/layers/prefetch.py`", "models/layers/prefetch.py"),
    "a removed file": ("`engine/gone.py`", "engine/gone.py"),
    "a module without a folder": ("As `matching.py` has it", "matching.py"),
    "a folder of the previous paragraph": ("`metrics/quality.py`\n\n`matching.py`", "matching.py"),
    "a folder of the previous item": ("- `metrics/quality.py`\n- `matching.py`", "matching.py"),
    "a folder": ("`docs/pictures/`", "docs/pictures/"),
    "a file with a trailing slash": ("`engine/runs.py/`", "engine/runs.py/"),
    "a recipe": ("```\npanformer train recipes/r49.yaml\n```", "recipes/r49.yaml"),
    "another branch of a tree": ("```\nengine/\n  runs.py\nmetrics/\n  runs.py\n```", "runs.py"),
    "no family": ("`models/<family>/gone.py`", "models/<family>/gone.py"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_path_that_does_not_exist_is_found(case: str) -> None:
    text, path = WRONG[case]
    assert list(wrong_paths(text)) == [path]


def test_existing_paths_are_accepted() -> None:
    spans = ["engine/runs.py", "prefetch.py", "models/<family>/family.py", "docs/data.md", "data/mine", *FOREIGN]
    assert list(wrong_paths(" ".join(f"`{span}`" for span in spans))) == []
    assert list(wrong_paths("```\nengine/\n  runs.py\n  checkpoints/  checkpoint.py\n```", all_folders=True)) == []


def test_the_evaluation_page_describes_every_subcommand() -> None:
    documented = commands((REPOSITORY / "docs" / "evaluation.md").read_text(encoding="utf-8"))
    assert {evaluate.with_subcommand(words[1:], [])[0] for words in documented} == set(evaluate.commands)


def test_the_evaluation_page_names_every_option_of_the_default_subcommand() -> None:
    text = section((REPOSITORY / "docs" / "evaluation.md").read_text(encoding="utf-8"), "Command line")
    options = [option for option in checkpoint.params if isinstance(option, click.Option)]
    assert [option.opts[0] for option in options if option.opts[0] not in text] == []


def test_links_within_the_data_page_have_sections() -> None:
    text = DATA.read_text(encoding="utf-8")
    titles = re.findall(r"^#+ (.*)$", text, flags=re.M)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    assert len(titles) == len(anchors)
    assert set(re.findall(r"\]\(#([^)]*)\)", text)) <= anchors


def model_sections(text: str) -> set[str]:
    """Return the sections of docs/model.md that a file refers to by quoted names after the path of the page."""
    text = re.sub(r"\n[ #]*", " ", text)
    references = re.findall(r'docs/model\.md, ("[^"\n]+"(?:(?:, | and )"[^"\n]+")*)', text)
    return {name for reference in references for name in re.findall('"([^"]+)"', reference)}


def test_references_to_sections_of_the_model_page_are_found() -> None:
    page = "docs/model" + ".md"
    text = f'# ({page}, "Input" and\n    # "No such section")\n"""See {page},\n    "Losses"."""\n{page} and "others"'
    assert model_sections(text) == {"Input", "No such section", "Losses"}


def test_referenced_sections_of_the_model_page_exist() -> None:
    titles = set(re.findall(r"^#+ (.*)$", MODEL.read_text(encoding="utf-8"), flags=re.M))
    folders = ("panformer_cli", "tests", "docs", "recipes", "benchmarks")
    files = [path for folder in folders for path in (REPOSITORY / folder).rglob("*.*")]
    texts = {path: path.read_text(encoding="utf-8") for path in files if path.suffix in (".py", ".md", ".yaml")}
    references = {str(path): model_sections(text) for path, text in texts.items()}
    assert len(set().union(*references.values())) > 10
    assert {path: names - titles for path, names in references.items() if names - titles} == {}


def test_referenced_sections_of_the_page_of_k_net_exist() -> None:
    titles = set(re.findall(r"^#+ (.*)$", (REPOSITORY / "docs" / "knet.md").read_text(encoding="utf-8"), flags=re.M))
    files = [*(REPOSITORY / "panformer_cli").rglob("*.py"), *(REPOSITORY / "tests").rglob("*.py")]
    named = {
        name for path in files for name in re.findall(r'docs/knet\.md, "([^"]+)"', path.read_text(encoding="utf-8"))
    }
    assert len(named) >= 6
    assert named - titles == set()
