"""Small versions of the files and folders that the commands in the documentation name, for tests/test_docs_commands.py.

`INPUTS` writes what a line names, `SOURCES` the input folder of a converter, and `BEFORE` what a line needs without
naming it. Relative paths are in the current folder.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image, ImageDraw

from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.structures import Batch, Targets
from panformer_cli.engine.checkpoints.checkpoint import TrainProgress, load_model, read_checkpoint, save_checkpoint
from panformer_cli.engine.checkpoints.published import PUBLISHED
from panformer_cli.engine.runs import RunFolder
from panformer_cli.engine.training.replay.bad_step import BadStep
from panformer_cli.engine.training.step import StepInputs
from panformer_cli.metrics.analysis.label_errors import Kind, Suspect
from panformer_cli.models.base import LossCounts
from panformer_cli.models.build import build_model
from panformer_cli.recipe_io import load_recipe
from tests.cli import prepare_folders
from tests.conftest import REPOSITORY
from tests.data.coco.coco_files import write_coco
from tests.engine.small import ALONE, BACKBONE, SMALL
from tests.engine.video.clips import clip
from tests.helpers import run
from tests.prepare.annotation_tools import test_cvat as cvat_files
from tests.release_files import save_as_mmcv, stub_state
from tests.saved_models import save_tiny

OVERRIDES = (
    *SMALL,
    "model.backbone_weights=none",
    "model.drop_path=0",  # this backbone has none
    "model.frozen_stages=0",
    "model.frozen_batch_norm=true",
    "data.crop_probability=0",
    "train.batch_size=2",
    "train.images_per_forward=2",
)
"""Settings that make a model of any recipe small, and a step and an evaluation of it quick."""

IMAGES = 3
"""Images of each split of a data set in COCO's panoptic format."""


def panoptic_set(root: Path, *splits: str) -> None:
    """Write a data set in COCO's panoptic format, with COCO's categories."""
    for number, split in enumerate(splits):
        annotation = write_coco(root, IMAGES, split, first=IMAGES * number)
        content = json.loads(annotation.read_text())
        annotation.write_text(json.dumps(content | {"categories": COCO.to_coco()}))


def coco(root: Path) -> None:
    panoptic_set(root, "train2017", "val2017")


def train_val(root: Path) -> None:
    panoptic_set(root, "train", "val")


def all_splits(root: Path) -> None:
    panoptic_set(root, "train2017", "val2017", "train", "val")


def panoptic_json(path: Path) -> None:
    """Write the JSON of a validation split and, in the folder of the same name, its PNGs."""
    folder = path.with_name(f"{path.stem}_set")
    coco(folder)
    (folder / "annotations" / "panoptic_val2017").rename(path.with_suffix(""))
    (folder / "annotations" / "panoptic_val2017.json").rename(path)
    shutil.rmtree(folder)


def predictions(path: Path) -> None:
    """Write the ground truth of a validation split as predictions, with scores."""
    panoptic_json(path)
    content = json.loads(path.read_text())
    for row in content["annotations"]:
        row["segments_info"] = [segment | {"score": 0.9} for segment in row["segments_info"]]
    path.write_text(json.dumps(content))


def coco_zips(root: Path) -> None:
    """Write the zips that cocodataset.org has."""
    coco(root)
    for split in ("train2017", "val2017"):
        prepare_folders.pack(root / f"{split}.zip", root / "images" / split)
        prepare_folders.pack(root / f"annotations/panoptic_{split}.zip", root / f"annotations/panoptic_{split}")
    prepare_folders.pack(root / "panoptic_annotations_trainval2017.zip", root / "annotations")
    rows = [{"id": number, "file_name": f"{number:012d}.jpg", "height": 12, "width": 16} for number in range(3)]
    for row in rows:
        prepare_folders.save_image(root / "images" / "test2017" / str(row["file_name"]))
    prepare_folders.pack(root / "test2017.zip", root / "images" / "test2017")
    for split, images in (("test-dev2017", rows[:2]), ("test2017", rows)):
        content = {"images": images, "categories": [{"id": 1, "name": "person"}]}
        prepare_folders.text(root / f"annotations/image_info_{split}.json", json.dumps(content))
    prepare_folders.pack(root / "image_info_test2017.zip", root / "annotations")
    (root / "images").rmdir()


def label_photos(folder: Path, number: int, sky: bool = False) -> None:
    """Write photos of 160 x 120 pixels with a road, a car and a person, and their labelme JSONs."""
    folder.mkdir()
    draws = np.random.default_rng(0)
    for photo in range(1, number + 1):
        image = Image.fromarray(draws.integers(100, 140, (120, 160, 3), dtype=np.uint8))
        drawing = ImageDraw.Draw(image)
        drawing.rectangle((0, 50, 160, 120), fill=(90, 90, 90))
        shapes = [{"label": "road", "shape_type": "polygon", "points": [[0, 50], [160, 50], [160, 120], [0, 120]]}]
        if sky:
            shapes.append({"label": "sky", "shape_type": "rectangle", "points": [[0, 0], [160, 10]]})
        for label, color in (("car", (200, 30, 30)), ("person", (30, 30, 200))):
            x, y = int(draws.integers(0, 110)), int(draws.integers(10, 60))
            drawing.ellipse((x, y, x + 40, y + 30), fill=color)
            shapes.append({"label": label, "shape_type": "rectangle", "points": [[x, y], [x + 40, y + 30]]})
        image.save(folder / f"street{photo}.jpg")
        content = {"shapes": shapes, "imagePath": f"street{photo}.jpg", "imageHeight": 120, "imageWidth": 160}
        (folder / f"street{photo}.json").write_text(json.dumps(content))


def photos(folder: Path) -> None:
    label_photos(folder, 8, sky=True)


def few_photos(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number in range(2):
        Image.new("RGB", (64, 48), (90, 120, 60 * number)).save(folder / f"photo{number}.jpg")


def zip_of_photos(path: Path) -> None:
    few_photos(path.with_name("zipped"))
    shutil.make_archive(str(path.with_suffix("")), "zip", path.with_name("zipped"))


def list_of_photos(path: Path) -> None:
    few_photos(path.with_name("listed"))
    path.write_text("".join(f"{photo}\n" for photo in path.with_name("listed").iterdir()))


def cvat(root: Path) -> None:
    boxes = {"sky": (0, 0, 40, 8), "road": (0, 20, 40, 30), "car": (5, 10, 15, 20)}
    shapes = [cvat_files.polygon(label, *box) for label, box in boxes.items()]
    images = [cvat_files.image(f"{number}.jpg", *shapes, number=number) for number in range(10)]
    cvat_files.write(root, *images, labels=dict.fromkeys(boxes, ""))
    for number in range(10):
        cvat_files.save_image(root / f"images/{number}.jpg", 20 * number)


def json_and_images(path: Path) -> None:
    """Write a JSON of COCO instances, and its images to DIR."""
    folder = Path("instances")
    prepare_folders.coco_instances(folder)
    (folder / "annotations" / "instances_val.json").rename(path)
    (folder / "images" / "val").rename("DIR")
    shutil.rmtree(folder)


def with_splits(source: Callable[[Path, str], object], *splits: str) -> Callable[[Path], None]:
    """Return a function that writes several splits of a source."""

    def write(root: Path) -> None:
        for split in splits:
            source(root, split)

    return write


SOURCES: dict[str, Callable[[Path], object]] = {
    "ade20k": with_splits(prepare_folders.ade20k, "training", "validation"),
    "auto": photos,
    "cityscapes": with_splits(prepare_folders.cityscapes, "train", "val"),
    "coco": coco_zips,
    "coco-instances": prepare_folders.coco_instances,
    "custom": train_val,
    "cvat": cvat,
    "labelme": photos,
    "mapillary": with_splits(prepare_folders.mapillary, "training", "validation"),
    "masks": prepare_folders.masks,
    "png-pairs": prepare_folders.png_pairs,
    "scenes": lambda root: None,
    "yolo": prepare_folders.yolo,
}
"""Write the folder `--root` of `prepare-data SOURCE`. It is written anew for each line, and `--out` is deleted."""


def run_of_r50(folder: Path) -> None:
    """Write a run folder with random weights for data/mine."""
    run_folder = RunFolder(folder)
    checkpoint(run_folder.best)
    run_folder.start(read_checkpoint(run_folder.best).recipe, {})


def run_with_best_checkpoints(folder: Path) -> None:
    """Write a run folder with five evaluated checkpoints."""
    run_of_r50(folder)
    before, kept = read_checkpoint(folder / "best.safetensors"), RunFolder(folder)
    model = load_model(before)
    for step in range(1, 6):
        progress = TrainProgress(step, step, best_pq=9.0 + step, evaluated_pq=9.0 + step)
        save_checkpoint(kept.step_checkpoint(step), model, before.recipe, before.categories, progress)


def bad_step(path: Path) -> None:
    """Record a step in which an image was NaN."""
    before = read_checkpoint(path.with_name("best.safetensors"))
    batch = Batch(torch.full((1, 3, 64, 64), torch.nan), torch.zeros(1, 64, 64, dtype=torch.bool), [], [1])
    batch.targets.append(Targets(torch.tensor([0]), torch.ones(1, 4), torch.ones(1, 64, 64, dtype=torch.bool)))
    inputs = StepInputs([batch], LossCounts(1, 0), 1.0, {}, [])
    step = BadStep.of(ALONE, 1207, "loss", ["000000012345.jpg"], inputs)
    step.write(path, load_model(before), before.recipe, TrainProgress(step=1206))


def any_run() -> None:
    """Write a run for commands that use the newest one, unless an earlier line of the page trained one."""
    if not list(Path("runs").glob("*/*/*.safetensors")):
        run_of_r50(Path("runs/r50/newest"))


def save_random(path: Path, *overrides: str) -> None:
    """Save random weights of the small r50; its categories are those of the data set, if there is one, or COCO's."""
    recipe = load_recipe("r50", [*OVERRIDES, *overrides])
    categories = CocoPanoptic(Path(recipe.data.root), recipe.data.val_split).categories if recipe.data.root else COCO
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = build_model(recipe.model, recipe.inference, categories)
    save_checkpoint(path, model, recipe, categories, TrainProgress())


def checkpoint(path: Path) -> None:
    """Write a checkpoint for data/mine, with that data set if it does not exist."""
    if not Path("data/mine").exists():
        train_val(Path("data/mine"))
    save_random(path, "data.root=data/mine", "data.train_split=train", "data.val_split=val")


def official_r50(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_as_mmcv(stub_state("r50"), path)


def evaluation(folder: Path) -> None:
    assert run("evaluate", str(folder.parent)) == 0


def evaluated_run(folder: Path) -> None:
    run_of_r50(folder)
    evaluation(folder / "evaluation")


def first_image(path: Path) -> None:
    content = json.loads(Path("data/mine/annotations/panoptic_train.json").read_text())
    path.write_text(content["images"][0]["file_name"] + "\n")


def recipe_of_the_page(path: Path) -> None:
    """Write the recipe that the page on fine-tuning shows."""
    page = (REPOSITORY / "docs" / "fine_tuning.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(rf"^```yaml\n(name: {path.stem}\n.*?)^```$", page, flags=re.S | re.M)
    path.write_text(recipe)


def stuff_masks(folder: Path) -> None:
    for name in "ab":
        prepare_folders.label(folder / f"{name}.png", prepare_folders.drawn(7, 0))


def label_errors(path: Path, annotation: str = "data/mine/annotations/panoptic_val.json") -> None:
    """Write a probable label error in the first image of an annotation."""
    image = json.loads(Path(annotation).read_text())["images"][0]
    reason = "The model sees car where the annotation has nothing."
    suspect = Suspect(image["id"], image["file_name"], Kind.MISSING_ANNOTATION, 0.9, 0.8, (), (), (0, 0, 8, 6), reason)
    path.write_text(json.dumps({"suspects": [suspect.to_json()]}))


def corrected(path: Path) -> None:
    """Write a copy of data/mine, as corrected labels of its images are, instead of what a line before wrote."""
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree("data/mine", path)


def saved_by_transformers(path: Path) -> None:
    """Write a tiny model with COCO's labels to a folder, which has priority over a repository of the same name."""
    folder = Path(str(path).removeprefix("hf:"))
    if not folder.exists():
        save_tiny(folder)


def text(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content)


INPUTS: dict[str, Callable[[Path], object]] = {
    "/data/coco": coco,
    "ANNOTATION.json": panoptic_json,
    "CHECKPOINT": checkpoint,
    "DATA/coco": coco,
    "DIR": all_splits,
    "FILE": json_and_images,
    "GT.json": panoptic_json,
    "IN": photos,
    "INFO.json": panoptic_json,
    "PRED.json": predictions,
    "ROOT": lambda path: panoptic_set(path, "val2017"),
    "ROOT/labels.txt": text("car\nroad\n"),
    "ROOT/mine.yaml": text("names: [car, sky]\n"),
    "STUFF": stuff_masks,
    "a.json": panoptic_json,
    "clip.mp4": clip,
    "aerial.tif": lambda path: Image.new("RGB", (160, 120), "gray").save(path),
    "b.json": panoptic_json,
    "b_to_a.yaml": text("car: truck\n"),
    "classes.csv": text("id,name,kind\n3,car,thing\n7,road,stuff\n"),
    "data/a": train_val,
    "data/b": train_val,
    "data/mine": train_val,
    "data/scenes": train_val,
    "fewer.yaml": text("car: vehicle\n"),
    "good.txt": first_image,
    "hf:facebook/mask2former-swin-tiny-coco-panoptic": saved_by_transformers,
    "hf:my_model": saved_by_transformers,
    "label_errors.json": label_errors,
    "mine.pth": save_random,
    "mine.yaml": recipe_of_the_page,
    "panoptic_val2017.json": panoptic_json,
    "photos": photos,
    "more": few_photos,
    "archive.zip": zip_of_photos,
    "list.txt": list_of_photos,
    "predictions.json": predictions,
    "pvt_v2_b5_22k.pth": lambda path: torch.save(timm.create_model(BACKBONE.removeprefix("timm/")).state_dict(), path),
    "recipes": lambda path: path.symlink_to(REPOSITORY / "recipes"),
    "runs/a": evaluated_run,
    "runs/b": evaluated_run,
    "runs/mine": run_of_r50,
    "runs/mine/bad-step-1207.safetensors": bad_step,
    "runs/mine/best-tuned.safetensors": lambda path: shutil.copy(path.with_name("best.safetensors"), path),
    "runs/mine/evaluation": evaluation,
    "to_review/classes.csv": text("id,name,kind\n3,car,thing\n7,road,stuff\n8,sky,stuff\n9,person,thing\n"),
    "runs/r50/2026-11-28_10-00-00": run_of_r50,
    "runs/tiny/2026-11-20_09-30-00": run_with_best_checkpoints,
}
"""Write a file or folder that a line names, or that contains what it names, if it does not exist."""

BEFORE: dict[str, Callable[[], object]] = {
    "evaluate": any_run,
    "prepare-data export --to cvat --root /data/coco --split val2017 --review results/pred/label_errors.json "
    "--out to_review": lambda: label_errors(
        Path("results/pred/label_errors.json"), "root/data/coco/annotations/panoptic_val2017.json"
    ),
    "prepare-data merge --root data/mine --with data/corrected --replace --out data/better": lambda: corrected(
        Path("data/corrected")
    ),
    "weights import r50 --out /shared/weights/r50": lambda: official_r50(PUBLISHED["r50"].path),
    "weights import mine.pth --out DIR --categories ANNOTATION.json": lambda: official_r50(Path("mine.pth")),
}
"""Write what a line needs without naming it, or in another form than other lines need it."""
