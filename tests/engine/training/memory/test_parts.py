"""Compiled and checkpointed parts: names of parameters, gradients, compilations, and refusals."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from panformer_cli.engine.training.memory import parts
from panformer_cli.engine.training.memory.parts import (
    MANY_COMPILATIONS,
    _Counting,
    compile_obstacle,
    compile_parts,
    use_parts,
)
from panformer_cli.errors import RecipeError
from panformer_cli.recipe_io import load_recipe
from panformer_cli.settings import TrainSettings
from tests.engine.small import StopAfter
from tests.models.panoptic_segformer.small import images_of, small_model, targets_of
from tests.models.panoptic_segformer.test_model import losses_of, total_of


def test_unknown_and_repeated_parts_are_refused_with_the_list() -> None:
    for names in ("[encoder, decoder]", "[encoder, encoder]"):
        for key in ("checkpoint", "compile"):
            with pytest.raises(RecipeError, match=rf"train.{key} is .*: expected each part at most once, from "):
                load_recipe("tiny", [f"train.{key}={names}"])


def test_many_compilations_are_reported_once() -> None:
    reporter = StopAfter()
    counting = _Counting("encoder", lambda graph, inputs: graph, 1, reporter)
    for number in range(1, 3 * MANY_COMPILATIONS):
        assert counting("graph", []) == "graph"
        assert len(reporter.warnings) == (number >= MANY_COMPILATIONS)
    assert reporter.warnings[0].startswith("train.compile: encoder was compiled 8 times")


@pytest.mark.slow
def test_with_checkpointing_freed_memory_is_returned_after_each_stage_of_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    returned: list[bool] = []
    monkeypatch.setattr(parts, "return_freed_memory", lambda: returned.append(True))
    model, device = small_model(frozen_stages=0).train(), torch.device("cpu")
    images, targets = images_of(1, (64, 96)), [targets_of((64, 96), (1, (10, 20, 50, 60)))]
    use_parts(model, TrainSettings(), device, StopAfter())
    total_of(losses_of(model, images, targets)).backward()
    assert not returned
    use_parts(model, TrainSettings(checkpoint=("encoder",)), device, StopAfter())
    with torch.no_grad():
        losses_of(model, images, targets)
    assert not returned  # an evaluation keeps what it frees
    total_of(losses_of(model, images, targets)).backward()
    assert len(returned) == 2 * len(model.stages())
    copy.deepcopy(model)  # for the average of the weights


@pytest.mark.slow
def test_compiling_is_refused_where_it_cannot_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert "C++ compiler" in compile_obstacle("cpu")
    assert "mps" in compile_obstacle("mps")
    with pytest.raises(RecipeError, match=r"train.compile is \['encoder'\], but torch.compile needs a C\+\+ compiler"):
        use_parts(small_model(), TrainSettings(compile=("encoder",)), torch.device("cpu"), StopAfter())


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", [(), ("encoder",)])
def test_a_compiled_part_keeps_its_names_and_compiles_once_for_all_sizes(checkpoint: tuple[str, ...]) -> None:
    from torch._dynamo import lookup_backend

    compiled: list[int] = []
    eager = lookup_backend("aot_eager")

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(1)
        return eager(graph, inputs)

    plain, model = small_model(encoder_layers=2), small_model(encoder_layers=2)
    use_parts(model, TrainSettings(checkpoint=checkpoint), torch.device("cpu"), StopAfter())
    compile_parts(model, ("encoder",), backend, StopAfter())
    assert list(model.state_dict()) == list(plain.state_dict())
    for height, width in ((64, 96), (96, 64), (80, 128)):
        targets = [targets_of((height, width), (1, (10, 20, 50, 60)))]
        losses = [total_of(losses_of(each.train(), images_of(1, (height, width)), targets)) for each in (plain, model)]
        torch.testing.assert_close(losses[1], losses[0])
        for loss in losses:
            loss.backward()
    for (name, one), other in zip(plain.named_parameters(), model.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None and other.grad is not None:
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-4, msg=name)
    assert 1 <= len(compiled) <= 2
