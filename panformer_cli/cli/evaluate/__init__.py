"""`panformer evaluate` and its subcommands."""

from panformer_cli.cli.evaluate.group import evaluate

__all__ = ["evaluate"]
