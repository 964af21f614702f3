"""Devices and stop signals. Tests with several processes are in test_group.py and test_distributed.py."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from panformer_cli.engine.distributed.group import joined
from panformer_cli.engine.distributed.runtime import Process, ProcessOptions, device_of, explained_out_of_memory
from panformer_cli.engine.distributed.signals import SharedStop, StopRequest, stop_on_signals
from panformer_cli.engine.environment import environment
from panformer_cli.errors import PanformerError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpus": 1, "cpu_processes": 1}, "--gpus and --cpu-processes are both given; choose one of them"),
        ({"gpus": 0}, "--gpus is 0: expected 1 or more"),
        ({"cpu_processes": 0}, "--cpu-processes is 0: expected 1 or more"),
        ({"cpu_processes": -2}, "--cpu-processes is -2: expected 1 or more"),
        ({"gpus": 1000}, r"--gpus is 1000, but torch finds (no|\d+) GPUs on this machine; (use|omit)"),
        (
            {"device": "cuda:1000"},
            "--device is 'cuda:1000', which is not available here; expected one of auto, cpu",
        ),
        ({"device": "gpu"}, "--device is 'gpu', which is not available here"),
        ({"device": ""}, "--device is '', which is not available here"),
    ],
)
def test_unavailable_devices_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PanformerError, match=message):
        ProcessOptions(**options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu_the_error_says_what_to_do() -> None:
    with pytest.raises(PanformerError, match="torch finds no GPUs on this machine; omit the option to run on the CPU"):
        ProcessOptions(gpus=1)


@pytest.mark.parametrize("options", [ProcessOptions(cpu_processes=1), ProcessOptions(device="cpu")])
def test_a_single_process_is_not_launched(options: ProcessOptions) -> None:
    with joined(options) as process:
        assert process == Process(0, 1, torch.device("cpu")) == Process.single("cpu")
    assert options.processes == 1


@pytest.mark.parametrize(
    ("asked", "local_rank", "device"),
    [
        ({}, None, "cuda"),
        ({}, 1, "cuda:1"),
        ({"gpus": 1}, None, "cuda"),
        ({"gpus": 2}, 1, "cuda:1"),
        ({"device": "cuda"}, 1, "cuda:1"),
        ({"device": "cuda:3"}, 0, "cuda:3"),
        ({"device": "cpu"}, 1, "cpu"),
        ({"cpu_processes": 2}, 1, "cpu"),
    ],
)
def test_the_device_of_a_process(
    asked: dict[str, Any], local_rank: int | None, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("panformer_cli.engine.distributed.runtime._check_device", lambda name: None)
    assert device_of(ProcessOptions(**asked), local_rank) == torch.device(device)


@pytest.mark.parametrize(
    ("asked", "local_rank", "has_cuda", "device"),
    [
        ({}, None, False, "mps"),
        ({}, None, True, "cuda"),
        ({}, 1, False, "cpu"),  # several processes: mps has no collective operations
        ({"device": "mps"}, None, True, "mps"),
        ({"device": "cpu"}, None, False, "cpu"),
        ({"cpu_processes": 2}, 1, False, "cpu"),
    ],
)
def test_apple_gpus_come_after_cuda_and_before_the_cpu(
    asked: dict[str, Any], local_rank: int | None, has_cuda: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr("panformer_cli.engine.distributed.runtime._check_device", lambda name: None)
    assert device_of(ProcessOptions(**asked), local_rank) == torch.device(device)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA"), RuntimeError("MPS backend out of memory (x)")])
def test_out_of_memory_on_any_gpu_is_explained(error: RuntimeError) -> None:
    with pytest.raises(PanformerError, match="the GPU ran out of memory"), explained_out_of_memory():
        raise error
    with pytest.raises(RuntimeError, match="another error"), explained_out_of_memory():
        raise RuntimeError("another error")


def test_a_single_process_needs_no_communication() -> None:
    process = Process(0, 1, torch.device("cpu"))
    values = torch.tensor([1, 2])
    assert process.sum(values) is values
    assert process.gather("a") == ["a"]
    assert process.on_first(lambda: "made once") == "made once"
    process.wait()
    process.wait_for_first()
    with process.temporary_folder() as folder:
        assert folder.is_dir()
    assert not folder.exists()
    assert process.is_first
    assert not Process(1, 2, torch.device("cpu")).is_first


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_is_a_request(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signals() as stop:
        assert not stop
        signal.raise_signal(number)
        assert stop
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_interrupts_and_other_signals_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with stop_on_signals() as stop:
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
        now[0] = 0.1  # the same Ctrl-C again, from a launcher
        signal.raise_signal(signal.SIGINT)
        assert stop
        now[0] = 1.0
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_nohup_keeps_ignoring_a_closed_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_stop_of_one_rank_is_seen_by_all() -> None:
    distributed: Any = torch.distributed  # its type stubs lack the stores
    store = distributed.HashStore()
    requests = [StopRequest() for _ in range(2)]
    stops = [
        SharedStop(request, Process(rank, 2, torch.device("cpu"), store), "work")
        for rank, request in enumerate(requests)
    ]
    assert [stop() for stop in stops] == [False, False]
    requests[1].handle(signal.SIGUSR1, None)
    assert [stop() for stop in stops] == [False, True]
    assert [stop() for stop in stops] == [True, True]
    assert not SharedStop(requests[0], Process(0, 2, torch.device("cpu"), store), "other work")()
    alone = StopRequest()
    stop = SharedStop(alone, Process(0, 1, torch.device("cpu")), "work")
    assert not stop()
    alone.handle(signal.SIGUSR1, None)
    assert stop()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also where a shell started the tests in the background, with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_failure_after_a_stop_request_is_the_stop() -> None:
    """A collective operation fails like this when the same signal has ended other ranks."""
    with pytest.raises(KeyboardInterrupt), stop_on_signals():
        signal.raise_signal(signal.SIGINT)
        raise RuntimeError("Connection closed by peer")
    with pytest.raises(PanformerError, match="no space"), stop_on_signals():
        signal.raise_signal(signal.SIGINT)
        raise PanformerError("no space to save")


def test_training_works_in_another_thread() -> None:
    requests: list[bool] = []

    def work() -> None:
        with stop_on_signals() as stop:
            requests.append(bool(stop))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert requests == [False]


def test_the_environment_has_what_results_depend_on() -> None:
    facts = environment()
    assert facts["torch"] == torch.__version__
    assert facts["gpus"] == [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    assert {"panformer", "python", "platform", "cpus", "threads", "command"} <= set(facts)


def test_the_process_has_the_sampling() -> None:
    with joined(ProcessOptions(device="cpu", sampling="portable")) as process:
        assert process.sampling == "portable"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU may run triton's kernels")
def test_a_sampling_for_another_device_is_one_message() -> None:
    with (
        pytest.raises(PanformerError, match="sampling 'triton' requires cuda, but the model is on cpu"),
        joined(ProcessOptions(device="cpu", sampling="triton")),
    ):
        pass
