"""JSON that is nested deeply is refused at the same depth by every Python version."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

from panformer_cli.storage.plain_json import DEEPEST, is_too_deep, parse


def nested(depth: int, inner: str = "") -> str:
    return depth * "[" + inner + depth * "]"


@pytest.mark.parametrize("text", ["1", '"[[["', "null", "[]", "{}", '{"a": [{"b": [1, "x"]}, {}, []]}', b'{"a": 1.5}'])
def test_a_value_is_what_json_makes_of_it(text: str | bytes) -> None:
    assert parse(text) == json.loads(text)


@pytest.mark.parametrize(
    "text", [nested(DEEPEST), nested(DEEPEST - 1, '{"a": 1}'), f"[{nested(DEEPEST - 1)}, 1, {{}}]"]
)
def test_the_deepest_value_that_is_read(text: str) -> None:
    value = parse(text)
    assert pickle.loads(pickle.dumps(value)) == copy.deepcopy(value)


@pytest.mark.parametrize(
    "text",
    [
        nested(DEEPEST + 1),
        nested(DEEPEST, '{"a": 1}'),
        f'{{"a": [1, {{"b": {nested(DEEPEST - 2)}}}]}}',
        *map(nested, (900, 1500, 5000, 20_000, 100_000, 1_000_000)),  # before or after what a Python version reads
        100_000 * '{"a":' + "1" + 100_000 * "}",
    ],
    ids=["a list", "an object", "in both", *map(str, (900, 1500, 5000, 20_000, 100_000, 1_000_000)), "objects"],
)
def test_a_value_that_is_deeper_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"nested more than {DEEPEST} levels deep"):
        parse(text)


@pytest.mark.parametrize("text", ["", "[1", "{'a': 1}", b"\xff", 10_000 * "["])
def test_a_text_that_is_no_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        parse(text)


def test_width_is_not_depth() -> None:
    assert not is_too_deep([[[number], {"a": [number]}] for number in range(10 * DEEPEST)])
