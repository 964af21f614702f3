"""The recorded numbers of the authors' release at inference: every stage of the network, and merging.

The recordings lie outside of the project (fixture `shared`, folder `golden`, whose README says what they hold): made-up
weights, synthetic images.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.structures import PanopticMap
from panformer_cli.models.deformable_encoder import resize_padding_mask
from panformer_cli.models.layers import inverse_sigmoid
from panformer_cli.models.panoptic_segformer import PanopticOutput, PanopticSegFormer
from panformer_cli.panoptic.merging import Candidates, InferenceSelection, candidates_of, merge_masks
from panformer_cli.recipe import InferenceRecipe
from tests.release import STUFF, THINGS, Recording, filled_model, recorded_inputs

pytestmark = pytest.mark.slow
Array = npt.NDArray[Any]


@dataclass
class Evaluation:
    """A forward pass over a recorded input, with what flowed between the parts."""

    recording: Recording
    model: PanopticSegFormer
    output: PanopticOutput
    selection: InferenceSelection
    stages: dict[str, Tensor] = field(default_factory=dict)

    def candidates(self) -> Candidates:
        height, width, _ = self.recording.notes["a.meta"]["ori_shape"]
        return candidates_of(self.output, self.selection, 0, (height, width), THINGS)


def record_stages(model: PanopticSegFormer, stages: dict[str, Tensor]) -> None:
    """Fill `stages` by the recordings' names whenever the model runs."""

    def keep(module: nn.Module, name: str) -> None:
        def hook(_: nn.Module, __: Any, result: Any) -> None:
            if isinstance(result, list):
                stages.update({f"{name}.{number}": tensor for number, tensor in enumerate(result)})
            else:
                stages[name] = result

        module.register_forward_hook(hook)

    keep(model.backbone, "backbone")
    keep(model.neck, "neck")
    for number, layer in enumerate(model.encoder.layers):
        keep(layer, f"encoder.{number}")
    for number, layer in enumerate(model.location_decoder.layers):
        keep(layer, f"hs.{number}")
    keep(model.location_decoder.reference_points, "reference_logits")


def evaluate(shared: Path, variant: str, recording: str, images: Tensor, padding: Tensor) -> Evaluation:
    model = filled_model(shared, variant, train=False)
    selection, stages = InferenceSelection(top_k=100), dict[str, Tensor]()
    record_stages(model, stages)
    with torch.no_grad():
        output = model(images, padding, selection)
        shapes = [tuple(stages[f"neck.{level}"].shape[-2:]) for level in range(4)]
        masks = [resize_padding_mask(padding, (height, width)) for height, width in shapes]
        stages["pos_embed"] = model.encoder.position(masks)
    stages["memory_mask"] = torch.cat([mask.flatten(1) for mask in masks], dim=1).int()
    stages["memory"] = stages["encoder.5"]
    stages["hs"] = torch.stack([stages.pop(f"hs.{layer}").transpose(0, 1) for layer in range(6)])
    stages["init_reference"] = stages.pop("reference_logits").sigmoid()
    stages["bbox_preds"] = stages["inter_references"] = output.location.boxes
    stages["head_reference"] = inverse_sigmoid(output.location.boxes[4])
    stages.update({f"cls_scores.{layer}": logits for layer, logits in enumerate(output.location.class_logits)})
    return Evaluation(Recording(shared, recording), model, output, selection, stages)


def decoded(output: PanopticOutput, image: int) -> dict[str, Tensor]:
    """What the mask decoders gave for one image."""
    stages = {"stuff_scores": output.stuff_logits[-1, image].sigmoid()}
    for name, masks in (("things", output.things), ("stuff", output.stuff)):
        stages[f"{name}.mask"] = masks.masks[-1][image].flatten(1)
        stages.update({f"{name}.inter_query.{block}": queries[image] for block, queries in enumerate(masks.queries)})
    return stages


@pytest.fixture(scope="module")
def inputs(shared: Path) -> dict[str, Tensor]:
    return recorded_inputs(shared)


@pytest.fixture(scope="module", params=["r50", "r101", "pvtv2b5", "swinl"])
def evaluation(request: pytest.FixtureRequest, shared: Path, inputs: dict[str, Tensor]) -> Evaluation:
    """Image a alone."""
    images = inputs["a"][None]
    padding = torch.zeros(1, *images.shape[-2:], dtype=torch.bool)
    return evaluate(shared, request.param, f"eval_{request.param}", images, padding)


@pytest.fixture(scope="module")
def coco(shared: Path) -> CategoryTable:
    path = shared / "data" / "coco_mini" / "annotations" / "panoptic_val2017.json"
    return CategoryTable.from_coco(json.loads(path.read_text())["categories"], str(path))


def assert_close(recording: Recording, prefix: str, stages: dict[str, Tensor], expected: int) -> None:
    compared = {
        name: recording.distance(prefix + name, x) for name, x in stages.items() if prefix + name in recording.arrays
    }
    assert len(compared) == len(stages) == expected, set(stages) - set(compared)
    assert max(compared.values()) <= 1e-4, {name: value for name, value in compared.items() if value > 1e-4}


def test_every_stage_of_the_network(evaluation: Evaluation) -> None:
    # backbone, neck, position and mask, encoder and memory, decoder, references and boxes, classes; masks and queries
    stages = {**evaluation.stages, **decoded(evaluation.output, 0)}
    assert_close(evaluation.recording, "a.", stages, expected=3 + 4 + 2 + 7 + 1 + 4 + 6 + 1 + (1 + 4) + (1 + 6))


def places_of(evaluation: Evaluation) -> Array:
    """Our candidate for each of the recorded 153: near ties may have changed places among the hundred things."""
    queries, labels = evaluation.output.selected[0].tolist(), evaluation.selection.labels[0].tolist()
    place = {pair: number for number, pair in enumerate(zip(queries, labels, strict=True))}
    arrays = evaluation.recording.arrays
    recorded = zip(arrays["a.det.bbox_index"].tolist(), arrays["a.det.labels"].tolist(), strict=True)
    things = [place[pair] for pair in recorded]  # a KeyError: another query or class was chosen
    assert len(set(things)) == len(things) == 100
    return np.array([*things, *range(100, 100 + STUFF)])


def test_the_hundred_detections(evaluation: Evaluation) -> None:
    theirs, places = evaluation.recording.arrays["a.det.bboxes"], places_of(evaluation)[:100]
    candidates = evaluation.candidates()
    np.testing.assert_allclose(candidates.boxes.numpy()[places], theirs[:, :4], atol=1e-2)
    np.testing.assert_allclose(candidates.class_scores.numpy()[places], theirs[:, 4], atol=1e-4)


def test_masks_scores_and_areas_at_the_original_size(evaluation: Evaluation) -> None:
    recording, places, candidates = evaluation.recording, places_of(evaluation), evaluation.candidates()
    masks = candidates.enlarged(candidates.masks)
    assert recording.distance("a.masks_ori", masks[places]) <= 1e-4
    theirs = recording.arrays["a.post.scores_presort"]
    assert (theirs > 0.25).sum() >= 3
    np.testing.assert_allclose(candidates.scores().numpy()[places], theirs, atol=1e-4)
    areas = (masks > 0.5).flatten(1).sum(1).numpy()[places]
    np.testing.assert_allclose(areas, recording.arrays["a.post.mask_area"], rtol=1e-3, atol=1)


def test_instance_results_by_final_score(evaluation: Evaluation) -> None:
    """The results with a score; the many of score 0 have no order."""
    arrays, candidates = evaluation.recording.arrays, evaluation.candidates()
    binary = torch.stack([candidates.binary(index) for index in range(100)])
    scores = candidates.scores()[:100]
    theirs = arrays["a.result.bboxes"]
    order = scores.argsort(descending=True)[: int((theirs[:, 4] > 0).sum())]
    assert len(order) >= 3
    assert int((scores > 0).sum()) == len(order)
    ours = torch.cat([candidates.boxes[order], scores[order, None]], dim=1).numpy()
    np.testing.assert_allclose(ours[:, :4], theirs[: len(order), :4], atol=1e-2)
    np.testing.assert_allclose(ours[:, 4], theirs[: len(order), 4], atol=1e-4)
    assert candidates.labels[order].tolist() == arrays["a.result.labels"][: len(order)].tolist()
    height, width = binary.shape[-2:]
    packed = arrays["a.result.segm_packbits"][: len(order)]
    masks = np.unpackbits(packed, axis=1)[:, : height * width].reshape(-1, height, width)
    assert (binary[order].numpy() == masks.astype(bool)).mean() >= 0.999


def category_and_instance(panoptic: PanopticMap, categories: CategoryTable) -> Array:
    """(2, H, W): the category id, and for things their number in order of acceptance."""
    maps = np.zeros((2, *panoptic.ids.shape), dtype=np.int64)
    things = 0
    for segment in sorted(panoptic.segments, key=lambda segment: segment.id):
        here = panoptic.ids == segment.id
        maps[0][here] = segment.category_id
        if categories.by_id(segment.category_id).is_thing:
            things += 1
            maps[1][here] = things
    return maps


def test_the_merged_map(evaluation: Evaluation, coco: CategoryTable) -> None:
    recording = evaluation.recording
    score, same_score, thing_overlap, stuff_overlap = recording.notes["thresholds"]
    assert score == same_score
    recipe = InferenceRecipe(score_threshold=score, thing_overlap=thing_overlap, stuff_overlap=stuff_overlap)
    panoptic = merge_masks(evaluation.candidates(), coco, recipe)
    ours, theirs = category_and_instance(panoptic, coco), recording.arrays["a.panoptic"]
    segments = {tuple(pair) for pair in theirs.reshape(2, -1).T.tolist()} - {(0, 0)}
    assert len(segments) >= 3
    assert {tuple(pair) for pair in ours.reshape(2, -1).T.tolist()} - {(0, 0)} == segments
    assert (ours == theirs).all(0).mean() >= 0.999
    accepted = [row for row in recording.arrays["a.post.merge_log"] if row[4] == 2]
    scores = recording.arrays["a.post.scores_presort"]
    assert len(panoptic.segments) == len(accepted)
    for segment, (index, label, *_) in zip(panoptic.segments, accepted, strict=True):
        assert coco.label(segment.category_id) == label
        assert segment.score == pytest.approx(float(scores[index]), abs=1e-4)


def test_a_padded_batch_of_two(shared: Path, inputs: dict[str, Tensor]) -> None:
    images, padding = torch.zeros(2, 3, 192, 268), torch.ones(2, 192, 268, dtype=torch.bool)
    for number, name in enumerate(("a", "b_small")):
        height, width = inputs[name].shape[-2:]
        images[number, :, :height, :width] = inputs[name]
        padding[number, :height, :width] = False
    evaluation = evaluate(shared, "r50", "eval_r50_batch2", images, padding)
    assert evaluation.stages["memory_mask"].any()
    assert_close(evaluation.recording, "", evaluation.stages, expected=3 + 4 + 2 + 7 + 1 + 4 + 6)
    for image, prefix in enumerate("ab"):
        chosen = evaluation.recording.arrays[f"{prefix}.det.bbox_index"].tolist()
        assert evaluation.output.selected[image].tolist() == chosen
        assert_close(evaluation.recording, f"{prefix}.", decoded(evaluation.output, image), expected=1 + 5 + 7)
