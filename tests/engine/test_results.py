"""Predictions that several processes write."""

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


def test_lines_on_a_machine_with_a_folder_of_its_own_are_missed(tmp_path: Path) -> None:
    process, log = OneOfTwo(0, 2, torch.device("cpu")), ResultLog(tmp_path, 0, 2)
    log.append(0, {})
    with pytest.raises(PanformerError, match=r"does not see 1\.jsonl.*expected a folder that all machines share"):
        wait_for_lines(log, process)
    ResultLog(tmp_path, 1, 2).append(1, {})
    wait_for_lines(log, process)
