"""Predictions written by several processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.results import wait_for_lines
from panformer_cli.errors import PanformerError
from panformer_cli.storage.result_log import ResultLog


class OneOfTwo(Process):
    """The first of two processes; the other one wrote lines too."""

    def gather(self, value: Any) -> list[Any]:
        return [value, "1.jsonl"]


def test_a_result_log_on_another_machine_is_reported_as_missing(tmp_path: Path) -> None:
    process, log = OneOfTwo(0, 2, torch.device("cpu")), ResultLog(tmp_path, 0, 2)
    log.append(0, {})
    with pytest.raises(
        PanformerError, match=r"rank 0 does not find 1\.jsonl.*expected a folder that all machines share"
    ):
        wait_for_lines(log, process)
    ResultLog(tmp_path, 1, 2).append(1, {})
    wait_for_lines(log, process)
