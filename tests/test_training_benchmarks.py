"""The benchmarks of a training step, with a tiny model: what they measure, and how they report a failure."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import REPOSITORY

TINY = ["--recipe", "tiny", "--size", "64x64", "--repeat", "1", "--json"]


@pytest.fixture
def scripts() -> Iterator[dict[str, ModuleType]]:
    """The scripts import each other by their names."""
    names = ("training_setup", "training_memory", "training_options", "training_step")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(REPOSITORY / "benchmarks"))
        yield {name: import_module(name) for name in names}
    for name in names:
        del sys.modules[name]


@pytest.mark.slow
def test_a_checkpointed_encoder_keeps_less_and_everything_is_attributed(
    scripts: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    memory = scripts["training_memory"]
    found = {}
    for names in ("", "encoder"):
        memory.main([*TINY, "--only", names])
        found[names] = json.loads(capsys.readouterr().out)
    plain, checkpointed = (found[names]["kept"] for names in ("", "encoder"))
    assert set(plain) == {*scripts["training_setup"].PARTS, "losses"}
    assert all(size > 0 for size in plain.values())
    assert checkpointed["encoder"] < 0.3 * plain["encoder"]
    assert {name for name, size in checkpointed.items() if size == pytest.approx(plain[name])} == set(plain) - {
        "encoder"
    }
    # 14.3 M parameters as weights, gradients and two moments, each in four bytes
    assert found[""]["state"] == pytest.approx(4 * 4 * 14.3e6 / 2**20, rel=0.01)

    arguments = memory.parse(memory.step_parser("", "64x64"), TINY)
    arguments.checkpoint = ["", "encoder"]
    (first, second) = memory.times_of(arguments)
    assert list(first["stages"]) == list(scripts["training_setup"].STAGES)
    assert (first["ratio"]["median"], first["gradient_difference"], second["gradient_difference"]) == (1, 0, 0)


@pytest.mark.slow
def test_an_option_that_fails_is_reported_and_the_others_run(
    scripts: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = scripts["training_options"]
    broken = options.Option(("train.sync_batch_norm=true", "train.compile=[nothing]"))
    monkeypatch.setitem(options.OPTIONS, "broken", broken)
    assert options.main([*TINY, "--options", "fp32", "broken", "bf16"]) == 1
    fp32, failed, bf16 = map(json.loads, capsys.readouterr().out.splitlines())
    assert failed["error"].startswith("RecipeError: ")
    assert fp32["loss_difference"] == 0 < bf16["loss_difference"] < 0.01
    assert not {"error"} & (fp32.keys() | bf16.keys())
    monkeypatch.setattr(options, "TOLERANCE", 1e-7)
    assert options.main([*TINY, "--options", "fp32", "bf16"]) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[1])["error"].startswith("the loss is ")


def test_invalid_options_end_with_one_sentence(scripts: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    for script, words, said in (
        ("training_step", ["--repeat", "0"], "--repeat: expected 1 or more"),
        ("training_memory", ["--batch", "0"], "--repeat: expected 0 or more; --batch: expected 1 or more"),
        ("training_options", ["--options", "fp8"], "--options: unknown fp8; expected some of: fp32; "),
        ("training_options", ["--size", "big"], "big"),
    ):
        with pytest.raises(SystemExit) as ended:
            scripts[script].main(words)
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
