"""Mutate recipes and `--set` values at random, and check that every mistake is reported as one.

Each mutation changes a built-in recipe in one to three places: a value of another type, a number at or beyond a limit,
a misspelled, repeated or misplaced key, broken YAML, or an override. Then the recipe is loaded and checked as by
`panformer train`, without torch. A mutation is refused (a `RecipeError`), accepted, or a bug (any other exception).

    python benchmarks/recipe_fuzz.py --mutations 3000 --seed 0 --list accepted.txt

Accepted recipes are written to the file of `--list`, one per line, so that a person can judge whether each of them can
mean something. They must also survive being written and read back.
"""

from __future__ import annotations

import argparse
import random
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from panformer_cli.errors import RecipeError
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_checks import check_run
from panformer_cli.recipe_io import (
    built_in_recipes,
    load_recipe,
    recipe_differences,
    recipe_from_dict,
    recipe_to_dict,
    recipe_to_yaml,
)
from panformer_cli.storage import plain_yaml

NUMBERS: tuple[str, ...] = (
    "0",
    "-1",
    "1",
    "2",
    "1e-4",
    "0.5",
    "1.0",
    "1e300",
    "-1e300",
    ".nan",
    ".inf",
    "-.inf",
    "1e-320",
    "9" * 18,
)
NUMBERS += (
    "9" * 30,
    "1_000",
    "007",
    "0x10",
    "+3",
    "1e999",
    "-0",
    "31",
    "32",
    "16384",
    "16385",
    "100000000",
    "1000000001",
)
TEXTS: tuple[str, ...] = (
    "",
    "''",
    "' '",
    "null",
    "~",
    "no",
    "on",
    "true",
    "False",
    "text",
    "imagenet",
    "'a\\tb'",
    '"a\\nb"',
    '"a\\0b"',
)
TEXTS += ("timm/", "timm/x", "resnet", "resnet50", "swin_large", "../..", "/", "~/x", "$HOME", "é", "😀", "a" * 5000)
LISTS: tuple[str, ...] = (
    "[]",
    "[1]",
    "[18]",
    "[32, 64]",
    "[64, 32]",
    "[1, 1]",
    "[-1]",
    "[0.5]",
    "[a]",
    "[[1]]",
    "[null]",
    "{a: 1}",
    "{}",
)
LISTS += ("[.nan, 1]", f"[{', '.join(['64'] * 2000)}]", "[0.1, 2.0]", "[2.0, 0.1]", "[1, 1, 1, 1]")
BROKEN = ("[1", "{a", "&a 1", "*a", "!!python/name:os.system", "- 1", "a: b", "\t", "\x07", "@", "`", "%", "|", ">")
VALUES = NUMBERS + TEXTS + LISTS + BROKEN


@dataclass(frozen=True)
class Mutation:
    """A mutated recipe: its text and the overrides of the command line."""

    text: str
    overrides: tuple[str, ...]


def mutations(seed: int) -> Iterator[Mutation]:
    """Yield random mutations without end; the same seed gives the same ones."""
    rng = random.Random(seed)
    texts = [path.read_text(encoding="utf-8") for path in built_in_recipes().values()]
    while True:
        text, overrides = rng.choice(texts), ["data.root=DIR"]
        for _ in range(rng.randint(1, 3)):
            change = rng.choice((_change_line, _add_key, _override, _override, _cut, _repeat_line))
            text = change(text, overrides, rng)
        yield Mutation(text, tuple(overrides))


@cache
def _keys() -> list[str]:
    content = recipe_to_dict(Recipe())
    inner = [f"{name}.{key}" for name, section in content.items() if isinstance(section, dict) for key in section]
    return [*content, *inner]


def _misspelled(key: str, rng: random.Random) -> str:
    at = rng.randrange(len(key))
    return rng.choice(
        (key[:at] + key[at + 1 :], key[:at] + "x" + key[at:], key.upper(), f"{key}.x", key, key, key, key)
    )


def _change_line(text: str, overrides: list[str], rng: random.Random) -> str:
    del overrides
    lines = text.splitlines()
    at = rng.randrange(len(lines))
    key, colon, _ = lines[at].partition(":")
    lines[at] = f"{key}: {rng.choice(VALUES)}" if colon and not key.startswith("#") else lines[at]
    return "\n".join(lines) + "\n"


def _add_key(text: str, overrides: list[str], rng: random.Random) -> str:
    del overrides
    section, _, leaf = _misspelled(rng.choice(_keys()), rng).rpartition(".")
    line = f"{leaf}: {rng.choice(VALUES)}"
    if section and f"\n{section}:\n" in text:
        return text.replace(f"\n{section}:\n", f"\n{section}:\n  {line}\n", 1)
    return f"{text}{section}:\n  {line}\n" if section else f"{text}{line}\n"


def _override(text: str, overrides: list[str], rng: random.Random) -> str:
    key, value = _misspelled(rng.choice(_keys()), rng), rng.choice(VALUES)
    overrides.append(rng.choice((f"{key}={value}",) * 12 + (key, f"={value}", f"{key}:{value}")))
    return text


def _cut(text: str, overrides: list[str], rng: random.Random) -> str:
    del overrides
    return text[: rng.randrange(len(text))] if rng.random() < 0.3 else text


def _repeat_line(text: str, overrides: list[str], rng: random.Random) -> str:
    del overrides
    lines = text.splitlines()
    at = rng.randrange(len(lines))
    return "\n".join([*lines[:at], lines[at], *lines[at:]]) + "\n"


def outcome(mutation: Mutation, folder: Path) -> tuple[str, Recipe | str]:
    """Return `accepted` with the recipe, `refused` with the message, or `bug` with the traceback."""
    path = folder / "mutated.yaml"
    path.write_text(mutation.text, encoding="utf-8")
    try:
        recipe = load_recipe(str(path), mutation.overrides)
        check_run(recipe)
        assert recipe_from_dict(plain_yaml.parse(recipe_to_yaml(recipe)), "written") == recipe
    except RecipeError as error:
        return "refused", str(error)
    except Exception:  # whatever it is, the user would see a traceback
        return "bug", traceback.format_exc()
    return "accepted", recipe


def run(count: int, seed: int, report: Callable[[str, Mutation, Any], None] | None = None) -> Counter[str]:
    """Try `count` mutations, call `report` with each outcome, and return how often each outcome occurred."""
    found: Counter[str] = Counter()
    with TemporaryDirectory() as folder:
        for _, mutation in zip(range(count), mutations(seed), strict=False):
            kind, result = outcome(mutation, Path(folder))
            found[kind] += 1
            if report is not None:
                report(kind, mutation, result)
    return found


def main() -> None:
    """Run the mutations, print the counts and the bugs, and write the list of accepted recipes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--mutations", type=int, default=300, help="number of mutations (default 300)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the mutations (default 0)")
    parser.add_argument("--list", type=Path, help="file for the accepted recipes")
    options = parser.parse_args()
    known = {name: load_recipe(name, ["data.root=DIR"]) for name in built_in_recipes()}
    lines: list[str] = []

    def report(kind: str, mutation: Mutation, result: Any) -> None:
        if kind == "bug":
            print(result, mutation, sep="\n", file=sys.stderr)
        elif kind == "accepted":
            changed = min((recipe_differences(recipe, result) for recipe in known.values()), key=len)
            settings = ", ".join(f"{key}={value!r}"[:120] for key, (_, value) in changed.items())
            lines.append(f"{settings or 'unchanged'}; warnings: {len(check_run(result))}")

    counts = run(options.mutations, options.seed, report)
    print(f"{options.mutations} mutations: {', '.join(f'{number} {kind}' for kind, number in sorted(counts.items()))}")
    if options.list is not None:
        options.list.write_text("".join(f"{line}\n" for line in sorted(set(lines))), encoding="utf-8")
    sys.exit(counts["bug"] > 0)


if __name__ == "__main__":
    main()
