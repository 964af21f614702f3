"""The help of `panformer prepare-data`."""

from __future__ import annotations

import pytest

from tests.helpers import run

ORDER = [
    "auto",
    "coco",
    "custom",
    "cityscapes",
    "ade20k",
    "mapillary",
    "coco-instances",
    "png-pairs",
    "masks",
    "labelme",
    "yolo",
    "cvat",
    "scenes",
    "verify",
    "subset",
    "split",
    "merge",
    "remap",
    "export",
]


def test_help_lists_sources_before_other_commands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run("prepare-data", "--help") == 0
    listed = capsys.readouterr().out.split("Commands:\n")[1].splitlines()
    assert [line.split()[0] for line in listed] == ORDER
    for line in listed:
        assert line.endswith(".")
        assert not line.endswith("...")  # cut


@pytest.mark.parametrize("name", ORDER)
def test_every_subcommand_has_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("prepare-data", name, "--help") == 0
    assert f"\n  panformer prepare-data {name} " in capsys.readouterr().out
