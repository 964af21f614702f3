"""The process group: environment variables, communication between ranks, and reporting failures."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from panformer_cli.engine.distributed import group
from panformer_cli.engine.distributed.group import UnreachableError, joined, reports_failure
from panformer_cli.engine.distributed.runtime import Process, ProcessOptions
from panformer_cli.engine.distributed.worker import Worker
from panformer_cli.errors import DataError, PanformerError
from tests.engine.ranks import in_processes
from tests.helpers import set_worker


def test_the_worker_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Worker.of_environment() is None
    set_worker(monkeypatch, 5, 6, 1)
    worker = Worker.of_environment()
    assert worker == Worker(rank=5, world_size=6, local_rank=1, local_world_size=2)
    assert worker is not None
    assert worker.nodes == 3
    monkeypatch.delenv("MASTER_PORT")
    assert Worker.of_environment() is None


@pytest.mark.parametrize(
    ("rank", "world", "local"), [("2", "2", "0"), ("-1", "2", "0"), ("x", "2", "0"), ("0", "2", "2")]
)
def test_an_invalid_worker_is_one_message(monkeypatch: pytest.MonkeyPatch, rank: str, world: str, local: str) -> None:
    set_worker(monkeypatch, rank, world, local)
    with pytest.raises(PanformerError, match=f"the environment has RANK={rank}, WORLD_SIZE={world}.*; unset these"):
        Worker.of_environment()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"gpus": 3}, "--gpus is 3, but torchrun started 2 processes on this machine; use torchrun --nproc-per-node 3"),
        ({"cpu_processes": 1}, "--cpu-processes is 1, but torchrun started 2 processes on this machine"),
        ({"device": "cuda:1"}, "--device is 'cuda:1', a single device, but torchrun started 2 processes"),
        ({"gpus": 2}, None),
        ({"cpu_processes": 2}, None),
        ({"device": "cpu"}, None),
        ({}, None),
    ],
)
def test_options_must_match_torchrun(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], message: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr("panformer_cli.engine.distributed.runtime._check_device", lambda name: None)
    options, worker = ProcessOptions(**asked), Worker(1, 4, 1, 2)
    if message is None:
        group._check_options(options, worker)
    else:
        with pytest.raises(PanformerError, match=message):
            group._check_options(options, worker)


def test_more_processes_than_gpus_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    worker = Worker(1, 2, 1, 2)
    with pytest.raises(PanformerError, match="2 processes on this machine, which has 1 GPU; use torchrun --nproc-per"):
        group._check_options(ProcessOptions(), worker)
    group._check_options(ProcessOptions(device="cpu"), worker)


def test_a_single_process_cannot_be_two() -> None:
    with (
        pytest.raises(PanformerError, match="is 2, but there is only one process; use torchrun --nproc-per-node 2"),
        joined(ProcessOptions(cpu_processes=2)),
    ):
        pass


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> list[Worker]:
    """Return three ranks that share a store and do not wait."""
    distributed: Any = torch.distributed  # its type stubs lack the stores
    store = distributed.HashStore()
    monkeypatch.setattr(group, "_store", lambda worker, seconds: store)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    return [Worker(rank, 3, rank, 3) for rank in range(3)]


@pytest.mark.parametrize("is_bug", [False, True])
def test_the_first_rank_that_fails_reports_it(is_bug: bool, ranks: list[Worker]) -> None:
    error = ValueError("the same on all ranks")
    assert [reports_failure(ranks[rank], error, is_bug) for rank in (1, 0, 2, 1)] == [True, False, False, True]


def test_ranks_that_were_restarted_do_not_see_the_keys_of_an_earlier_start(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed: Any = torch.distributed  # its type stubs lack the stores
    store = distributed.HashStore()
    monkeypatch.setattr(group, "rendezvous", lambda *_, **__: iter([(store, 0, 2)]))
    for restarts in ("0", "1"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restarts)
        own = group._store(Worker(0, 2, 0, 2), 1.0)
        assert not own.check(["key"])
        own.set("key", "value")
        assert own.check(["key"])


def test_the_variables_of_slurm_are_not_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """In an allocation there is one process without srun; with torchrun in srun, its variables count."""
    for name, value in {"PROCID": "3", "NTASKS": "8", "NNODES": "2", "LOCALID": "1", "JOB_ID": "7"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert Worker.of_environment() is None
    with joined(ProcessOptions(device="cpu")) as process:
        assert (process.rank, process.world_size) == (0, 1)
    set_worker(monkeypatch, 1, 2, 1)
    assert Worker.of_environment() == Worker(rank=1, world_size=2, local_rank=1, local_world_size=2)


def test_a_rank_that_cannot_reach_the_others_reports_it(ranks: list[Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(worker: Worker, seconds: float) -> None:
        raise UnreachableError

    monkeypatch.setattr(group, "_store", fail)
    assert reports_failure(ranks[1], UnreachableError(), is_bug=False)
    assert [reports_failure(rank, ValueError(), is_bug=False) for rank in ranks] == [True, False, False]


def test_unreachable_ranks_are_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    set_worker(monkeypatch, 1, 2)
    monkeypatch.setattr(group, "_JOIN_SECONDS", 1.0)
    with (
        pytest.raises(
            UnreachableError, match=r"other processes cannot be reached \(.*\); unset them to run without torchrun"
        ),
        joined(ProcessOptions(device="cpu")),
    ):
        pass


def exchange(process: Process, out: Path) -> dict[str, Any]:
    values = torch.tensor([process.rank + 1, 10])
    content: dict[str, Any] = {"sum": process.sum(values).tolist(), "own": values.tolist()}
    content["parts"] = process.gather(f"part {process.rank}")
    process.spread([values])
    content["spread"] = values.tolist()
    content["first"] = process.on_first(lambda: [process.rank, "x" * 20_000_000])
    content["second"] = process.on_first(lambda: process.rank)
    made = out / "made"
    content["third"] = process.first_then_others(lambda: found_and_made(made))
    with pytest.raises(DataError, match="of rank 0"):
        process.first_then_others(lambda: refuse(process.rank))
    with pytest.raises(DataError, match="of rank 0"):
        process.on_first(lambda: refuse(process.rank))
    with process.temporary_folder() as folder:
        content["folder"] = folder
        assert folder.is_dir()
        process.wait()
    return content


def found_and_made(folder: Path) -> bool:
    """Create a folder; return whether it existed."""
    found = folder.is_dir()
    folder.mkdir(exist_ok=True)
    return found


def refuse(rank: int) -> None:
    raise DataError(f"of rank {rank}")


@pytest.mark.slow
def test_communication_between_ranks(tmp_path: Path) -> None:
    for rank, content in enumerate(in_processes(2, exchange, tmp_path)):
        assert not content.pop("folder").exists()
        assert content == {
            "sum": [3, 20],
            "own": [rank + 1, 10],
            "parts": ["part 0", "part 1"],
            "spread": [1, 10],
            "first": [0, "x" * 20_000_000],
            "second": 0,
            "third": rank > 0,
        }


def leave_at(process: Process) -> tuple[float, float]:
    """Return when this rank finished its work, and when it could leave."""
    time.sleep(1.5 if process.is_first else 0)
    done = time.time()
    process.wait_for_first()
    return done, time.time()


@pytest.mark.slow
def test_no_rank_leaves_before_rank_0() -> None:
    (done, _), (_, left) = in_processes(2, leave_at)
    assert left >= done
