"""`panformer evaluate`: the group and its subcommands."""

from __future__ import annotations

import click

from panformer_cli.cli.evaluate.check_submission import check_submission
from panformer_cli.cli.evaluate.checkpoint import checkpoint
from panformer_cli.cli.evaluate.compare import compare
from panformer_cli.cli.evaluate.predictions import predictions
from panformer_cli.cli.evaluate.robustness import robustness
from panformer_cli.cli.evaluate.routing import EvaluateGroup
from panformer_cli.cli.evaluate.tune import tune


@click.group(cls=EvaluateGroup, options_metavar="", subcommand_metavar="[COMMAND] [OPTIONS] [ARGUMENTS]")
def evaluate() -> None:
    """Evaluate a checkpoint, or predictions on disk.

    The default COMMAND is `checkpoint`; with --predictions it is `predictions`, with --corruptions `robustness`. A
    first word that is the name of a COMMAND always means that COMMAND: to evaluate a checkpoint called `tune`, use
    `panformer evaluate ./tune` or `panformer evaluate checkpoint tune`.

    \b
    panformer evaluate
    panformer evaluate r50 --data /data/coco --metrics all --report report/
    panformer evaluate predictions PRED.json --annotations GT.json
    panformer evaluate robustness best.safetensors --severity 1-5
    panformer evaluate compare A B
    panformer evaluate tune CHECKPOINT
    panformer evaluate check-submission FILE.zip --images INFO.json
    """


for command in (checkpoint, predictions, robustness, compare, tune, check_submission):
    evaluate.add_command(command)
