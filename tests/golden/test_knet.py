"""K-Net, compared with recordings of its reference implementation: every stage of the network, and merging.

README.md describes the recordings: synthetic weights and synthetic images.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.data.images import read_image
from panformer_cli.data.structures import PanopticMap
from panformer_cli.data.transforms import prepare_image
from panformer_cli.models.knet.fusion import with_position
from panformer_cli.models.knet.model import KNet, with_whole_cells
from panformer_cli.models.knet.postprocessing import KernelPrediction
from panformer_cli.models.knet.settings import WinnerSettings
from tests.golden.conftest import recordings_folder
from tests.golden.knet_release import KNET_VARIANTS, filled_knet, knet_keys, knet_tensor, unfilled_knet
from tests.golden.recordings import FidelityTable, Recording
from tests.golden.release import DATA

CLOSE = 1e-4
FEW_PIXELS = 1e-3
SCALE = (192, 320)
"""Maximum short and long side of the recorded inputs."""
VOID = 133


def watch(model: KNet) -> dict[str, Tensor]:
    """Return a dictionary that every forward pass fills with the stages of the network, by their recorded names."""
    found: dict[str, Tensor] = {}

    def keep(module: nn.Module, name: str) -> None:
        module.register_forward_hook(lambda _module, _inputs, output: found.__setitem__(name, output))

    def keep_all(module: nn.Module, name: str) -> None:
        module.register_forward_hook(
            lambda _module, _inputs, output: found.update({f"{name}.{n}": level for n, level in enumerate(output)})
        )

    keep_all(model.backbone, "backbone")
    keep_all(model.pyramid, "neck")
    keep_all(model.fusion, "semantic_fpn")
    for number, level in enumerate(model.fusion.levels):
        keep(level, f"semantic_fpn.level.{number}")
    first = model.initial_kernels
    keep(first.location, "loc_feats")
    keep(first.semantic, "seg_feats")
    keep(first.things, "init.thing_masks")
    first.register_forward_hook(
        lambda _module, _inputs, output: found.update(
            {"init.kernels": output[0].kernels, "init.mask_preds": output[0].masks, "x_feats": output[1]}
        )
    )
    for number, update in enumerate(model.updates):
        stage = f"stage.{number}"
        parts = {
            "feats": update.features,
            "updated": update.update,
            "attended": update.attention_norm,
            "kernels": update.feedforward_norm,
            "cls_score": update.classes,
            "mask_kernel": update.mask_kernels,
        }
        for name, part in parts.items():
            assert isinstance(part, nn.Module)
            keep(part, f"{stage}.{name}")
        assert isinstance(update.update, nn.Module)
        update.update.register_forward_pre_hook(
            lambda _module, inputs, stage=stage: found.__setitem__(f"{stage}.gathered", inputs[0])
        )
        update.register_forward_hook(
            lambda _module, _inputs, output, stage=stage: found.__setitem__(f"{stage}.mask_preds", output[0].masks)
        )
    return found


STAGES = {
    "backbone C2 to C5": [f"backbone.{n}" for n in range(4)],
    "pyramid P2 to P5": [f"neck.{n}" for n in range(4)],
    "position encoding": ["pos_embed"],
    "fusion, 4 levels": [f"semantic_fpn.level.{n}" for n in range(4)],
    "fusion, both maps": ["semantic_fpn.0", "semantic_fpn.1"],
    "features L, S and X": ["loc_feats", "seg_feats", "x_feats"],
    "first masks": ["init.thing_masks", "init.seg_preds", "init.mask_preds"],
    "first kernels": ["init.kernels"],
    "features of 3 stages": [f"stage.{n}.feats" for n in range(3)],
    "sums over masks of 3 stages": [f"stage.{n}.gathered" for n in range(3)],
    "kernel update of 3 stages": [f"stage.{n}.updated" for n in range(3)],
    "attention of 3 stages": [f"stage.{n}.attended" for n in range(3)],
    "kernels of 3 stages": [f"stage.{n}.kernels" for n in range(3)],
    "class logits of 3 stages": [f"stage.{n}.cls_score" for n in range(3)],
    "mask kernels of 3 stages": [f"stage.{n}.mask_kernel" for n in range(3)],
    "masks of 3 stages": [f"stage.{n}.mask_preds" for n in range(3)],
    "scores": ["post.scores"],
    "masks at the original image size": ["post.masks"],
}


class Variant:
    """A filled model with its recording."""

    def __init__(self, name: str, folder: Path) -> None:
        self.model = filled_knet(name)
        self.stages = watch(self.model)
        self.folder = folder
        self.recording = Recording(folder, f"eval_knet_{name}")
        self.images = sorted(key.split(".")[0] for key in self.recording.arrays.files if key.endswith(".input"))

    def measure(self, fidelity: FidelityTable, column: str) -> None:
        """Compare all recorded arrays of all images."""
        assert self.images
        for image in self.images:
            self._measure(fidelity, column, f"{image}.")

    def _measure(self, fidelity: FidelityTable, column: str, image: str) -> None:
        file = f"img_{image[:-1]}.png"
        pixels = read_image(self.folder / file if (self.folder / file).exists() else DATA / file)
        images = prepare_image(pixels, *SCALE)[None]
        self._measure_input(fidelity, column, image, images)
        with torch.inference_mode():
            output = self.model.infer(images, torch.zeros(1, *images.shape[-2:], dtype=torch.bool))
            found = self.stages
            found["pos_embed"] = with_position(torch.zeros_like(found["neck.3"]))
            found["init.seg_preds"] = self.model.initial_kernels.classes(found["seg_feats"])
        height, width = pixels.shape[:2]
        prediction = self.model.postprocess(output, 0, (height, width), WinnerSettings())
        found["post.scores"] = torch.from_numpy(prediction.scored.scores)
        found["post.masks"] = torch.stack(list(prediction.scored.masks()))
        compared = set()
        for stage, names in STAGES.items():
            compared |= {image + name for name in names}
            differences = {name: self.recording.distance(image + name, found[name].float()) for name in names}
            fidelity.measure(stage, column, differences, CLOSE)
        compared |= measure_merging(fidelity, column, self.recording, image, prediction)
        recorded = {name for name in self.recording.arrays.files if name.startswith(image)}
        assert recorded - compared - {image + "input", image + "category_ids"} == set()

    def _measure_input(self, fidelity: FidelityTable, column: str, image: str, images: Tensor) -> None:
        """The padded input is equal, bit for bit."""
        padded = with_whole_cells(images)[0]
        note = self.recording.notes[f"{image}input"]
        assert list(padded.shape) == note["shape"]
        equal = hashlib.sha256(padded.numpy().tobytes()).hexdigest() == note["sha256"]
        fidelity.measure("input, bit for bit", column, 0.0 if equal else 1.0, 0.0)


def measure_merging(
    fidelity: FidelityTable, column: str, recording: Recording, image: str, prediction: KernelPrediction
) -> set[str]:
    """Compare labels, the winner of each pixel, the counts of pixels, and the map. Return the names of the arrays."""
    arrays: dict[str, Any] = {
        name: recording.arrays[f"{image}{name}"]
        for name in ("post.labels", "post.winner", "post.merge_log", "panoptic")
    }
    winners, scored = prediction.winners, prediction.scored
    assert scored.labels.tolist() == arrays["post.labels"].tolist()
    share = float((winners.rows != arrays["post.winner"]).mean())
    fidelity.measure("share of pixels with another winner", column, share, FEW_PIXELS)
    rows, _, won, own, decisions = arrays["post.merge_log"].T
    pixels = scored.size[0] * scored.size[1]
    counts = np.abs(np.stack([winners.won[rows] - won, winners.own[rows] - own])).max() / pixels
    fidelity.measure("pixels of each kernel, share of the image", column, float(counts), FEW_PIXELS)
    kept = [COCO.label(segment.category_id) for segment in prediction.panoptic.segments]
    assert sorted(kept) == sorted(int(scored.labels[row]) for row in rows[decisions == 3])
    share = differing_pixels(prediction.panoptic, arrays["panoptic"])
    fidelity.measure("panoptic map: share of differing pixels", column, share, FEW_PIXELS)
    return {f"{image}{name}" for name in arrays}


def differing_pixels(panoptic: PanopticMap, recorded: Any) -> float:
    """Return the share of pixels outside of pairs of equal segments; the segments must match one to one.

    Their numbers follow the order of scores, which can be equal up to rounding, so they are not compared.
    """
    labels = {segment.id: COCO.label(segment.category_id) for segment in panoptic.segments}
    values, counts = np.unique(np.stack([recorded.reshape(-1), panoptic.ids.reshape(-1)]), axis=1, return_counts=True)
    partners: dict[int, int] = {}
    equal = 0
    for column in np.argsort(-counts):
        theirs, ours = values[:, column].tolist()
        if theirs == VOID or ours == 0:
            equal += int(counts[column]) if (theirs, ours) == (VOID, 0) else 0
        elif theirs not in partners and ours not in partners.values() and labels[ours] == theirs % 1000:
            partners[theirs] = ours
            equal += int(counts[column])
    assert set(partners) == set(np.unique(recorded).tolist()) - {VOID}
    assert set(partners.values()) == set(labels)
    assert len(partners) >= 3
    return 1 - equal / panoptic.ids.size


@pytest.mark.slow
@pytest.mark.parametrize("variant", KNET_VARIANTS)
def test_every_stage_and_the_panoptic_map(
    variant: str, recordings: Path, fidelity: FidelityTable, pytestconfig: pytest.Config
) -> None:
    if not (recordings / f"eval_knet_{variant}.npz").exists():
        assert recordings_folder(pytestconfig) != DATA
        pytest.skip(f"{recordings} has no recordings of K-Net {variant}")
    loaded = Variant(variant, recordings)
    loaded.measure(fidelity, f"knet_{variant}")
    if variant == "r50":  # as `evaluate` and `predict` run it: BatchNorm folded, channels last
        loaded.model.optimize_for_inference()
        loaded.measure(fidelity, "knet_r50, as evaluated")


@pytest.mark.slow
def test_the_synthetic_weights_of_k_net_are_those_of_the_recordings() -> None:
    digest = hashlib.sha256()
    for name, shape, kind in knet_keys("r50"):
        if kind == "float32":
            digest.update(knet_tensor(name, tuple(shape), KNET_VARIANTS["r50"].salt).tobytes())
    assert digest.hexdigest() == Recording(DATA, "eval_knet_r50").notes["weights_sha256"]


@pytest.mark.slow
@pytest.mark.parametrize("variant", KNET_VARIANTS)
def test_the_number_of_parameters_of_k_net(variant: str) -> None:
    with torch.device("meta"):
        model = unfilled_knet(variant)
    assert sum(parameter.numel() for parameter in model.parameters()) == KNET_VARIANTS[variant].parameters
