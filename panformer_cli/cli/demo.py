"""`panformer demo`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("demo"), show_default=True, help="Folder of all results."
)
def demo(out: Path) -> None:
    """A first run on this machine, without a download.

    Writes a data set of generated scenes, trains the recipe `tiny` on it, evaluates, predicts on images it has not
    seen, and draws pictures and an HTML page. Prints the PQ table and where everything lies.
    """
    del out
