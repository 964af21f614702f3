"""`panformer weights`: published weights, importing official checkpoints, averaging, and publishing on the Hub."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from panformer_cli.cli.groups import OrderedGroup
from panformer_cli.cli.options import announcer, hint, json_option
from panformer_cli.verbosity import current

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from panformer_cli.engine.checkpoints.published_sizes import PlannedDownload
    from panformer_cli.models.published import PublishedWeights


@click.group(cls=OrderedGroup)
def weights() -> None:
    """List, download, import, average or publish weights.

    Published weights are those of the authors of Panoptic SegFormer and of K-Net. Their names can be used anywhere a
    checkpoint is expected; the file is downloaded on first use.

    \b
    panformer weights list
    panformer weights download r50
    """


@weights.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON, with sizes in bytes.")
def list_weights(as_json: bool) -> None:
    """List the published weights.

    Prints their PQ on COCO val2017, their sizes, and which of them are cached. A size that is not known is at
    least those of the parameters; `weights download` asks the server. The environment variable PANFORMER_HOME sets the
    cache folder, PANFORMER_WEIGHTS_URL the URL of a mirror.

    \b
    panformer weights list
    panformer weights list --json
    """
    from panformer_cli.console import print_table
    from panformer_cli.engine.checkpoints.published import PUBLISHED
    from panformer_cli.storage.files import weights_folder

    if as_json:
        click.echo(json.dumps([_as_json(row) for row in PUBLISHED.values()], indent=2))
        return
    columns = ("name", "backbone", "PQ", "things", "stuff", "MB", "cached", "file")
    rows = [
        (row.name, row.backbone, row.pq, row.pq_things, row.pq_stuff)
        + (_megabytes(row, row.known_size), "yes" if row.path.is_file() else "no", row.file)
        for row in PUBLISHED.values()
    ]
    print_table("Published weights: PQ on COCO val2017, percent", columns, rows)
    for folder in dict.fromkeys(row.address.rpartition("/")[0] for row in PUBLISHED.values()):
        click.echo(f"From: {folder}")
    click.echo(f"Cache: {weights_folder()}")


@weights.command("download")
@click.argument("names", nargs=-1, required=True, metavar="NAME...|all")
@click.option("--json", "as_json", is_flag=True, help="Print names, paths and sizes in bytes as JSON.")
def download_weights(names: tuple[str, ...], as_json: bool) -> None:
    """Download published weights to the cache, such as for a machine without a network.

    NAME is one of `panformer weights list`. Sizes and the free space are printed first; nothing is downloaded if the
    space is too small. If interrupted, rerun the same command to resume. Files in the cache are checked and kept.

    \b
    panformer weights download r50
    panformer weights download all
    """
    from panformer_cli.console import RichReporter
    from panformer_cli.engine.checkpoints.published import fetch_published
    from panformer_cli.engine.checkpoints.published_sizes import check_space, free_bytes, plan_downloads, weights_named

    reporter = RichReporter()
    plans, free = plan_downloads(weights_named(names)), free_bytes()
    for line in _described(plans, free):
        reporter.message(line)
    check_space(plans, free)
    paths = {plan.weights.name: fetch_published(plan.weights, reporter) for plan in plans}
    if as_json:
        rows = [{"name": name, "path": str(path), "size": path.stat().st_size} for name, path in paths.items()]
        click.echo(json.dumps(rows, indent=2))
        return
    for name, path in paths.items():
        click.echo(f"{name}: {path}")


@weights.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder for the checkpoint."
)
@click.option("--recipe", metavar="NAME", help="Recipe of the model. [default: inferred from FILE]")
@click.option(
    "--categories",
    type=click.Path(path_type=Path),
    metavar="ANNOTATION.json",
    help="Panoptic JSON with the categories of the model. [default: COCO]",
)
@json_option
def import_file(file: Path, out: Path, recipe: str | None, categories: Path | None, as_json: bool) -> None:
    """Convert official weights to a panformer checkpoint.

    FILE is a .pth file of the reference implementation or the name of published weights. DIR gets model.safetensors and
    recipe.yaml, and can be used as a checkpoint. Importing is optional: commands also accept a .pth file.

    \b
    panformer weights import r50 --out weights/r50
    panformer weights import mine.pth --out weights/mine --recipe r101 --categories annotations/panoptic_train.json
    """
    from panformer_cli.console import RichReporter
    from panformer_cli.engine.checkpoints.import_official import import_weights
    from panformer_cli.engine.checkpoints.published import published_at
    from panformer_cli.engine.runs import check_can_be_changed, find_checkpoint

    reporter = RichReporter()
    check_can_be_changed(file)
    source = find_checkpoint(file, reporter)
    published = published_at(source)  # r50 and r50_1x have the same shapes; only their names differ
    name = published.name if recipe is None and published else recipe
    written = import_weights(source, out, name, categories, reporter)
    _print_checkpoint(written, as_json)


@weights.command("average")
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="CHECKPOINT...")
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), required=True, metavar="FILE", help="New .safetensors file."
)
@click.option(
    "--best",
    type=click.IntRange(min=2),
    metavar="K",
    help="Average the K checkpoints with the highest PQ of one run, whose folder is CHECKPOINT.",
)
@json_option
def average(checkpoints: tuple[Path, ...], out: Path, best: int | None, as_json: bool) -> None:
    """Average the weights of two or more checkpoints of one model.

    The mean of the best checkpoints of a run is often a little better than each of them. Running statistics are
    averaged too. The result can be evaluated, used to predict and fine-tuned, but no run can be resumed from it.

    \b
    panformer weights average runs/a/best.safetensors runs/b/best.safetensors --out average.safetensors
    panformer weights average runs/a --best 5 --out average.safetensors
    """
    from panformer_cli.console import RichReporter
    from panformer_cli.engine.checkpoints.average import average_checkpoints
    from panformer_cli.engine.checkpoints.kept_checkpoints import best_checkpoints
    from panformer_cli.engine.runs import RunFolder, check_can_be_changed, find_checkpoint

    if best is not None and (len(checkpoints) > 1 or not checkpoints[0].is_dir()):
        raise click.UsageError("--best chooses the checkpoints of one run; expected its folder as CHECKPOINT.")
    reporter = RichReporter()
    for path in checkpoints:
        check_can_be_changed(path)
    if best is None:
        paths = [find_checkpoint(path, reporter) for path in checkpoints]
    else:
        chosen = best_checkpoints(RunFolder(checkpoints[0]), best)
        paths = [path for path, _ in chosen]
        announce = announcer(as_json, reporter)
        announce(f"Best of the run: {', '.join(f'{path.name} (PQ {pq:.1f})' for path, pq in chosen)}")
    _print_checkpoint(average_checkpoints(paths, out), as_json)


@weights.command("push")
@click.argument("checkpoint", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--repo", "repository", required=True, metavar="USER/NAME", help="Model repository on the Hub.")
@click.option(
    "--license",
    "license_name",
    required=True,
    metavar="ID",
    help="License of the weights as the Hub names it, such as apache-2.0.",
)
@click.option("--data-name", metavar="NAME", help="Name of the training data in the model card.")
@click.option(
    "--evaluation",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Evaluation with the metrics for the model card. [default: RUN/evaluation, if it is of these weights]",
)
@click.option("--private", is_flag=True, help="Create a private repository.")
@click.option("--yes", is_flag=True, help="Replace the files of a model that the repository has.")
@click.option("--dry-run", is_flag=True, help="Write the files to --out instead of uploading them.")
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), metavar="DIR", help="New folder for the files of --dry-run."
)
@json_option
def push_weights(
    checkpoint: Path,
    repository: str,
    license_name: str,
    data_name: str | None,
    evaluation: Path | None,
    private: bool,
    yes: bool,
    dry_run: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Publish a model on the Hugging Face Hub.

    RUN is the folder of a run or a checkpoint. Its weights, without the state of the optimizer, a config.json and a
    model card are uploaded in one commit. Needs `pip install 'panformer[hub]'` and a login: `hf auth login`, or the
    environment variable HF_TOKEN. Others use the model as hub:USER/NAME.

    \b
    panformer weights push runs/tiny --repo USER/NAME --license apache-2.0
    panformer weights push runs/tiny --repo USER/NAME --license apache-2.0 --dry-run --out card
    """
    if dry_run != (out is not None):
        raise click.UsageError(
            "--dry-run and --out DIR, the folder for its files, need each other: use both or neither."
        )
    from panformer_cli.console import RichReporter
    from panformer_cli.engine.checkpoints.hub_models import PREFIX
    from panformer_cli.engine.publishing.push import PushRequest, push, write_folder
    from panformer_cli.engine.runs import check_can_be_changed, find_checkpoint
    from panformer_cli.storage.hub_upload import Destination

    reporter = RichReporter()
    check_can_be_changed(checkpoint)
    path = find_checkpoint(checkpoint, reporter, announce=announcer(as_json, reporter))
    request = PushRequest(path, repository, license_name, data_name, evaluation)
    if out is not None:
        write_folder(request, out, reporter)
        click.echo(json.dumps({"folder": str(out)}) if as_json else f"Not uploaded: {out}")
        return
    shows_bars = sys.stderr.isatty() and not current().quiet
    address = push(request, Destination(repository, private, yes, shows_bars), reporter)
    reference = f"{PREFIX}{repository}"
    click.echo(json.dumps({"commit": address, "checkpoint": reference}) if as_json else f"Published: {address}")
    if not as_json:
        hint(f"Use it as {reference}, such as: panformer predict photos --out predictions --checkpoint {reference}")


def _print_checkpoint(path: Path, as_json: bool) -> None:
    click.echo(json.dumps({"checkpoint": str(path)}) if as_json else f"Checkpoint: {path}")


def _as_json(row: PublishedWeights) -> dict[str, str | float | bool | None]:
    from panformer_cli.engine.checkpoints.published_sizes import least_size

    return {
        "name": row.name,
        "backbone": row.backbone,
        "pq": row.pq,
        "pq_things": row.pq_things,
        "pq_stuff": row.pq_stuff,
        "size": row.known_size,
        "least_size": least_size(row),
        "cached": row.path.is_file(),
        "address": row.address,
        "path": str(row.path),
    }


def _described(plans: Sequence[PlannedDownload], free: int) -> Iterator[str]:
    """Yield a line for each download, and the total."""
    for plan in plans:
        state = "" if plan.missing else ", in the cache"
        yield f"{plan.weights.name}: {_megabytes(plan.weights, plan.size)} MB{state}"
    total = sum(plan.missing for plan in plans)
    least = "" if all(plan.size is not None for plan in plans) else "at least "
    yield f"To download: {least}{total / 1e6:.0f} MB; free: {free / 1e6:.0f} MB"


def _megabytes(row: PublishedWeights, size: int | None) -> str:
    """Return a size in megabytes; if it is unknown, the least that it can be."""
    from panformer_cli.engine.checkpoints.published_sizes import least_size

    return f"≥ {least_size(row) / 1e6:.0f}" if size is None else f"{size / 1e6:.0f}"
