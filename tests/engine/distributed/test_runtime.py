"""Devices, and the signals that ask for a stop. Several processes: test_distributed.py."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pytest
import torch

from panformer_cli.engine.distributed.processes import _shared_cores, run_processes
from panformer_cli.engine.distributed.runtime import Process, ProcessOptions, environment, stop_on_signals
from panformer_cli.errors import PanformerError


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gpus": 1, "cpu_processes": 1}, "--gpus and --cpu-processes are both given; choose one of them"),
        ({"gpus": 0}, "--gpus is 0: expected 1 or more"),
        ({"cpu_processes": 0}, "--cpu-processes is 0: expected 1 or more"),
        ({"cpu_processes": -2}, "--cpu-processes is -2: expected 1 or more"),
        ({"gpus": 1000}, r"--gpus is 1000, but torch finds (no|\d+) GPUs on this machine; (ask|leave)"),
        ({"device": "cuda:1000"}, "--device is 'cuda:1000', which is not available here; expected auto, cpu or cuda"),
        ({"device": "gpu"}, "--device is 'gpu', which is not available here"),
        ({"device": ""}, "--device is '', which is not available here"),
    ],
)
def test_what_this_machine_cannot_do_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(PanformerError, match=said):
        ProcessOptions(**options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu_the_way_out_is_named() -> None:
    with pytest.raises(
        PanformerError, match="torch finds no GPUs on this machine; leave the option out to run on the CPU"
    ):
        ProcessOptions(gpus=1)


@pytest.mark.parametrize("options", [ProcessOptions(cpu_processes=1), ProcessOptions(device="cpu")])
def test_one_process_is_this_one(options: ProcessOptions) -> None:
    seen: list[tuple[Process, int]] = []
    run_processes(options, lambda process, number: seen.append((process, number)), 7)
    assert seen == [(Process(0, 1, torch.device("cpu")), 7)]
    assert options.processes == 1


def test_the_cores_are_shared_while_processes_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 7)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with _shared_cores(2):
        assert os.environ["OMP_NUM_THREADS"] == "3"
    assert "OMP_NUM_THREADS" not in os.environ
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    with _shared_cores(2):
        assert os.environ["OMP_NUM_THREADS"] == "5"
    assert os.environ["OMP_NUM_THREADS"] == "5"


def test_alone_there_is_nothing_to_share() -> None:
    process = Process(0, 1, torch.device("cpu"))
    values = torch.tensor([1, 2])
    assert process.sum(values) is values
    assert process.gather("a") == ["a"]
    process.wait()
    assert process.is_first
    assert not Process(1, 2, torch.device("cpu")).is_first


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_request(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signals() as stop:
        assert not stop
        signal.raise_signal(number)
        assert stop
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_interrupts_and_a_second_termination_does_not() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop_on_signals() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_another_thread_may_train_too() -> None:
    requests: list[bool] = []

    def work() -> None:
        with stop_on_signals() as stop:
            requests.append(bool(stop))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert requests == [False]


def test_the_environment_names_what_figures_depend_on() -> None:
    facts = environment()
    assert facts["torch"] == torch.__version__
    assert facts["gpus"] == [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    assert {"panformer", "python", "platform", "cpus", "threads", "command"} <= set(facts)


def test_options_as_words_of_the_command_line() -> None:
    assert ProcessOptions(device="cpu", sampling="portable").words() == ["--device", "cpu", "--sampling", "portable"]
    assert ProcessOptions(cpu_processes=2).words() == ["--cpu-processes", "2"]
