"""What the commands and options of other tools are called here: the answer to `panformer predict --conf 0.5`.

The names are those of Ultralytics YOLO, detectron2, MMDetection and Hugging Face's example scripts. A test checks that
every option and setting in an answer exists.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

_OUT = "results are written to the folder --out"
_DEVICE = "the device is --device, such as cuda:0 or cpu, and several GPUs are --gpus"
_HALF = "half precision is --precision fp16 or bf16, or --fast"
_BATCH = "images per forward pass are --batch-size"
_RECIPE = (
    "the settings of training are a recipe: its name or file is given without an option, single settings are --set"
)

PREDICT = {
    "the minimum score of a segment is --threshold": (
        "conf conf-thres conf-threshold confidence confidence-threshold score score-thr score-thresh score-threshold "
        "pred-score-thr thresh min-score"
    ),
    "how much segments may overlap is --overlap": (
        "iou iou-thres iou-threshold nms nms-thres nms-threshold overlap-threshold overlap-thr "
        "overlap-mask-area-threshold"
    ),
    "images, folders and patterns are given without an option": (
        "source input inputs image img imgs img-path image-path image-dir dir folder path file files data video"
    ),
    _OUT: (
        "output outputs output-dir output-path out-dir outdir out-file outfile save-dir save-path project name dest "
        "destination result results result-dir"
    ),
    "the model is --checkpoint": (
        "weights model model-path model-name ckpt ckpt-path checkpoint-path pretrained config config-file cfg hub"
    ),
    "the labels as text are --save segments (JSON with masks) or --save polygons (GeoJSON)": (
        "save-txt save-json save-conf save-pred save-rle txt"
    ),
    "cropped segments are --save cutouts": "save-crop save-crops crop crops",
    "masks are --save masks (one per segment), semantic or instances": (
        "save-mask save-masks mask retina-masks save-seg"
    ),
    "outputs are chosen with --save; without overlay none is drawn": "nosave no-save no-save-vis save-img",
    "a page to look at is --gallery; results are also written to --out": (
        "show view-img show-img visualize vis html report"
    ),
    "tiles overlap by --tile-overlap PIXELS": "overlap-ratio overlap-height-ratio overlap-width-ratio stride",
    "the colors are --colors": "palette colormap cmap color",
    "the longest side of the images that the network receives is --max-size": (
        "imgsz img-size image-size imgs-size input-size size resolution resize max-side max-side-len long-side "
        "max-image-size max-resolution"
    ),
    "large images are run in tiles with --tile and --tile-overlap": (
        "slice slice-size slice-height slice-width slice-overlap tile-size tiles tiling sahi patch-size window-size"
    ),
    "several views of each image are averaged with --tta flip,scales": "augment aug flip multi-scale multiscale",
    _HALF: "half fp16 float16 bf16 amp mixed-precision dtype",
    _DEVICE: "cpu gpu cuda gpu-id gpu-ids num-gpus devices",
    _BATCH: "batch bs batch-images per-device-batch-size",
    "the categories to keep are --classes": "class category categories labels filter-classes cls",
    "the smallest segments are left out with --min-area": "min-size min-mask-area min-mask-region-area min-pixels",
    "inference settings are changed with --set inference.KEY=VALUE": "opts cfg-options options",
}

TRAIN = {
    _RECIPE: "cfg config config-file config-path yaml model arch architecture",
    "the data set is --set data.root=DIR": (
        "data dataset data-path data-root data-dir root train-dir train-data-dir coco-path"
    ),
    "the number of epochs is --set train.epochs=N": "epochs epoch max-epochs num-epochs num-train-epochs",
    "the number of steps is --set train.max_steps=N": "max-iter iters iterations steps num-steps max-train-steps",
    "images per step are --set train.batch_size=N": (
        "batch bs batch-size ims-per-batch per-device-train-batch-size train-batch-size"
    ),
    "the learning rate is --set train.lr=X": "lr lr0 learning-rate base-lr",
    "the sizes of training images are --set data.train_short_sides=[...] and data.long_side": (
        "imgsz img-size image-size size resolution input-size"
    ),
    "weights to start from are --init-from": (
        "weights pretrained pretrained-weights checkpoint ckpt finetune finetune-from load load-from init"
    ),
    "the run folder is --out": (
        "output output-dir out-dir work-dir save-dir project name exp-name experiment run-name logdir"
    ),
    "processes that read images are --set data.workers=N": "workers num-workers dataloader-num-workers",
    "the precision is --set train.precision=bf16 or fp16": "half fp16 bf16 amp mixed-precision precision",
    _DEVICE: "cpu cuda gpu gpu-id gpu-ids num-gpus devices nproc nproc-per-node",
    "the random seed is --set train.seed=N": "seed",
    "the backbone is --set model.backbone=NAME": "backbone backbone-name encoder",
    "early stopping is --set train.early_stopping=N": "patience early-stopping early-stop",
    "parts of the model are frozen with --set train.freeze=[...]": "freeze freeze-backbone",
    "weight decay is --set train.weight_decay=X": "weight-decay wd",
    "gradients are clipped at --set train.clip_norm=X": "clip-grad clip-grad-norm clip-max-norm max-grad-norm",
    "an average of the weights is kept with --set train.ema_decay=X": "ema ema-decay use-ema",
    "experiment trackers are --log": "wandb use-wandb tensorboard mlflow tracker report-to logger",
    "evaluation is a command of its own: panformer evaluate": "eval eval-only test-only val evaluate do-eval",
    "settings are changed with --set KEY=VALUE": "opts cfg-options options override overrides",
}

EVALUATE = {
    "the checkpoint is given without an option": "weights model model-path ckpt ckpt-path checkpoint checkpoint-path",
    _OUT: "output output-dir out-dir work-dir save-dir project name",
    "the data set folder is --data": "dataset data-path data-root data-dir root coco-path",
    _HALF: "half fp16 float16 bf16 amp mixed-precision",
    _BATCH: "batch bs",
    _DEVICE: "cpu gpu cuda gpu-id gpu-ids num-gpus devices",
    "thresholds belong to the checkpoint: panformer evaluate tune finds better ones": (
        "conf conf-thres confidence score-thr score-threshold threshold iou iou-thres iou-threshold overlap"
    ),
}

COMMANDS = {
    "predict": "detect infer inference segment seg track run",
    "evaluate": "val validate validation test eval score metrics",
    "train": "fit finetune fine-tune",
    "visualize": "view show plot draw vis",
    "prepare-data": "convert data dataset datasets",
    "weights": "models model checkpoints download hub zoo",
    "recipes": "config configs cfg",
    "doctor": "checks check env info version collect-env",
}
"""What the commands of other tools are called here."""

_ANSWERS: Mapping[str, Mapping[str, str]] = {
    "panformer predict": PREDICT,
    "panformer train": TRAIN,
    "panformer evaluate": EVALUATE,
    "panformer evaluate checkpoint": EVALUATE,
}


def command_of(word: str) -> str | None:
    """Return the name of a command that other tools call `word`; None if there is none.

    >>> command_of("val")
    'evaluate'
    """
    return next((name for name, words in COMMANDS.items() if word.lower() in words.split()), None)


def answers(command: str) -> Iterator[tuple[str, str]]:
    """Yield each name that other tools have for an option of a command, such as `conf`, and the answer."""
    for answer, names in _ANSWERS.get(command, {}).items():
        yield from ((name, answer) for name in names.split())


def answer_to(command: str, option: str) -> str | None:
    """Return a sentence that says what an unknown option is called here, or None.

    Args:
        command: The command as it is typed, such as `panformer predict`.
        option: The option as it was typed, such as `--conf`, `--score_thr` or `conf`.

    >>> answer_to("panformer predict", "--save_crop")
    'panformer predict has no --save_crop; cropped segments are --save cutouts.'
    """
    answer = dict(answers(command)).get(option.lstrip("-").lower().replace("_", "-"))
    return f"{command} has no {option}; {answer}." if answer else None
