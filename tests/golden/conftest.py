"""Fixtures of the golden tests: the folder of recordings, and the tables that `make golden` writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.golden.recordings import FidelityTable, recorded_inputs
from tests.golden.release import DATA, VARIANTS

TABLES = {
    "inference": ["r50", "r101", "pvtv2b5", "swinl", "r50, as evaluated", "r50, padded batch of 2"],
    "knet": ["knet_r50", "knet_r101", "knet_swinl", "knet_r50, as evaluated"],
    "training": ["plain", "padded", "no_things", "no_stuff"],
    "two-processes": ["plain+padded", "plain_padded+padded", "no_things+padded"],
    "hugging-face": ["maskformer", "mask2former", "oneformer", "eomt", "eomt_dinov3", "detr"],
}
"""Columns of the tables in docs/fidelity.md, by mark."""

_table = pytest.StashKey[FidelityTable]()


def recordings_folder(config: pytest.Config) -> Path:
    """Return the folder of the recordings: the project's, or `--recordings`."""
    given: str | None = config.getoption("--recordings")
    return Path(given) if given else DATA


def variants_recorded(config: pytest.Config, form: str) -> list[str]:
    """Return the variants that have a recording named `form`. The project's own folder must have all expected ones.

    Args:
        form: name with a placeholder for the variant, such as `eval_{}`.
    """
    folder = recordings_folder(config)
    expected = {"eval_{}": list(VARIANTS), "train_{}": ["r50"]}[form] if folder == DATA else []
    found = [variant for variant in VARIANTS if (folder / f"{form.format(variant)}.npz").exists()]
    missing = [variant for variant in expected if variant not in found]
    if missing or not found:
        raise pytest.UsageError(f"{folder} has no recordings {form}.npz of {', '.join(missing) or 'any variant'}")
    return found


@pytest.fixture(scope="session")
def recordings(pytestconfig: pytest.Config) -> Path:
    return recordings_folder(pytestconfig)


@pytest.fixture(scope="session")
def inputs(recordings: Path) -> dict[str, Tensor]:
    return recorded_inputs(recordings)


@pytest.fixture(scope="session")
def fidelity(pytestconfig: pytest.Config) -> FidelityTable:
    """Return the table that collects measured differences and checks their limits."""
    return pytestconfig.stash.setdefault(_table, FidelityTable())


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write the measured tables between their marks in the file `--fidelity-table`, if all tests passed."""
    path: str | None = session.config.getoption("--fidelity-table")
    table = session.config.stash.get(_table, None)
    if path is None or table is None or exitstatus:
        return
    text = Path(path).read_text(encoding="utf-8")
    for mark, columns in TABLES.items():
        begin, end = f"<!-- {mark} -->\n", f"\n<!-- end {mark} -->"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = before + begin + table.markdown(columns) + end + after
    text = re.sub(r"(?<=measured with torch )\S+?(?=[ ,])", torch.__version__, text)
    Path(path).write_text(text, encoding="utf-8")
