"""`panformer prepare-data`: one subcommand per source of data."""

from panformer_cli.cli.prepare_data.group import prepare_data

__all__ = ["prepare_data"]
