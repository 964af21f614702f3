"""`panformer evaluate` and its subcommands."""

from panformer_cli.cli.evaluate.checkpoint import evaluate

__all__ = ["evaluate"]
