"""`panformer prepare-data`: one subcommand per source format."""

from panformer_cli.cli.prepare_data.group import prepare_data

__all__ = ["prepare_data"]
