"""The limit on nesting in JSON is the same in every Python version."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

from panformer_cli.storage.plain_json import DEEPEST, is_too_deep, parse


def nested(depth: int, inner: str = "") -> str:
    return depth * "[" + inner + depth * "]"


@pytest.mark.parametrize("text", ["1", '"[[["', "null", "[]", "{}", '{"a": [{"b": [1, "x"]}, {}, []]}', b'{"a": 1.5}'])
def test_values_equal_those_of_json(text: str | bytes) -> None:
    assert parse(text) == json.loads(text)


@pytest.mark.parametrize(
    "text", [nested(DEEPEST), nested(DEEPEST - 1, '{"a": 1}'), f"[{nested(DEEPEST - 1)}, 1, {{}}]"]
)
def test_the_deepest_value_is_read(text: str) -> None:
    value = parse(text)
    assert pickle.loads(pickle.dumps(value)) == copy.deepcopy(value)


@pytest.mark.parametrize(
    "text",
    [
        nested(DEEPEST + 1),
        nested(DEEPEST, '{"a": 1}'),
        f'{{"a": [1, {{"b": {nested(DEEPEST - 2)}}}]}}',
        *map(nested, (900, 1500, 5000, 20_000, 100_000, 1_000_000)),  # below or above the limits of Python versions
        100_000 * '{"a":' + "1" + 100_000 * "}",
    ],
    ids=["a list", "an object", "in both", *map(str, (900, 1500, 5000, 20_000, 100_000, 1_000_000)), "objects"],
)
def test_a_deeper_value_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=f"nested more than {DEEPEST} levels deep"):
        parse(text)


@pytest.mark.parametrize("text", ["", "[1", "{'a': 1}", b"\xff", 10_000 * "["])
def test_invalid_json_is_rejected(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        parse(text)


def test_width_is_not_depth() -> None:
    assert not is_too_deep([[[number], {"a": [number]}] for number in range(10 * DEEPEST)])
