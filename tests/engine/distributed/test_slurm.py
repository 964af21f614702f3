"""Batch files for SLURM, run by bash with stand-ins for the programs of SLURM that count their calls."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from panformer_cli.engine.distributed.slurm import Job, submit
from panformer_cli.errors import PanformerError
from tests.helpers import run

KEYS = "nodes=2,gpus=8,time=24:00:00"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'': expected KEY=VALUE with nodes, gpus, cpu_processes, time"),
        ("gpus", "'gpus': expected KEY=VALUE"),
        ("gpu=8", "'gpu=8': expected KEY=VALUE with .*; did you mean gpus?"),
        ("gpus=8,gpus=4", "gpus is given twice"),
        ("gpus=0", "gpus is '0': expected the number of GPUs of each machine"),
        ("gpus=eight", "gpus is 'eight': expected the number of GPUs"),
        ("gpus=8,time=1 day", "time is '1 day': expected a time such as 24:00:00 or 2-12:00:00"),
        ("gpus=8,time=", "time is '': expected a time"),
        ("gpus=8,partition=a\n#SBATCH --x", "partition is .*: expected the name of a partition"),
        ("gpus=8,mem=lots", "mem is 'lots': expected memory of each machine"),
        ("nodes=2", "expected gpus=N, the GPUs of each machine, or cpu_processes=N"),
        ("gpus=8,cpu_processes=2", "expected gpus=N"),
    ],
)
def test_keys_are_checked(text: str, message: str) -> None:
    with pytest.raises(PanformerError, match=f"^--slurm: {message}"):
        Job.parse("r50", text)


def test_the_directives() -> None:
    keys = f"{KEYS},cpus=48,mem=0,partition=a100,account=me,qos=high,constraint=a&b"
    lines = Job.parse("my recipe", keys).text(["train", "r50"], None).splitlines()
    assert lines[0] == "#!/bin/bash"
    directives = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")}
    assert directives == {
        *("--job-name=my_recipe", "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=8", "--time=24:00:00"),
        *("--cpus-per-task=48", "--mem=0", "--partition=a100", "--account=me", "--qos=high", "--constraint=a&b"),
        *("--signal=USR1@120", "--requeue", "--open-mode=append", "--output=%x-%j.log"),
    }


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put stand-ins on PATH that append their arguments to the file `calls`; srun starts two tasks at the same time."""
    programs = {
        "scontrol": 'echo "scontrol $*" >> calls; [ "$2" = hostnames ] && printf "n1\\nn2\\n"',
        "sbatch": 'echo "sbatch $*" >> calls; echo Submitted batch job 7',
        "srun": 'shift; SLURM_NODEID=0 "$@" & first=$!; SLURM_NODEID=1 "$@"; wait $first',
        "python": 'printf "[%s]" "$@" >> "task$SLURM_NODEID"; exit ${CODE:-0}',
    }
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_job(file: Path, code: int) -> int:
    """Run a batch file as SLURM would, with processes that exit with `code`; return its exit code."""
    job = {"SLURM_JOB_ID": "123456", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NNODES": "2", "CODE": str(code)}
    return subprocess.run(["bash", str(file)], env=os.environ | job, cwd="/", check=False).returncode


@pytest.mark.parametrize(("code", "requeued"), [(130, 1), (0, 0), (1, 0), (2, 0), (137, 0)])
def test_only_a_stopped_run_is_requeued_and_only_once(code: int, requeued: int, cluster: Path) -> None:
    file = Job.parse("r50", KEYS).write(["train", "r50", "--set", "data.root=a b"], None).absolute()
    assert run_job(file, code) == code
    calls = (cluster / "calls").read_text().splitlines()
    assert calls.count("scontrol requeue 123456") == requeued
    words = ["-m", "panformer_cli", "train", "r50", "--set", "data.root=a b", "--gpus", "8", "--resume", "auto"]
    words += ["--out", "runs/r50/slurm-123456", "--nodes", "2", "--rendezvous", "n1:23456", "--node-rank"]
    for rank in range(2):
        assert (cluster / f"task{rank}").read_text() == "".join(f"[{word}]" for word in [*words, str(rank)])


def test_the_command_line_writes_and_submits(cluster: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "tiny", "--out", "my run", "--slurm", "cpu_processes=2", "--set", "train.lr=1e-4"]
    assert run(*words) == 0
    assert capsys.readouterr().out == "Wrote tiny.sbatch; submit it with: sbatch tiny.sbatch\n"
    command = "python -m panformer_cli train tiny --out 'my run' --set train.lr=1e-4 --cpu-processes 2 --resume auto"
    assert f"{command} \\\n" in (cluster / "tiny.sbatch").read_text()
    assert not (cluster / "calls").exists()
    assert run(*words, "--submit") == 0  # replaces its own file
    assert capsys.readouterr().out == "Submitted batch job 7\n"
    assert (cluster / "calls").read_text() == "sbatch tiny.sbatch\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tiny", "--submit"], "--submit needs --slurm"),
        (["--slurm", KEYS], "Missing argument 'RECIPE'"),
        (["tiny", "--slurm", KEYS, "--resume"], "--resume cannot be used with --slurm"),
        (["tiny", "--slurm", KEYS, "--gpus", "2"], "--gpus cannot be used with --slurm, whose job sets it."),
        (["tiny", "--slurm", KEYS, "--node-rank", "0"], "--node-rank cannot be used with --slurm"),
        (["tiny", "--slurm", KEYS, "--set", "train.lrr=1"], "train.lrr"),
        (["tiny", "--slurm", "gpus=x"], "gpus is 'x'"),
        (["tiny", "--nodes", "2", "--rendezvous", "a:1"], "--nodes needs --node-rank"),
        (["tiny", "--nodes", "2", "--node-rank", "0"], "--nodes needs --rendezvous"),
        (["tiny", "--max-restarts", "1"], "--max-restarts needs --resume auto"),
    ],
)
def test_mistakes_are_one_message_and_write_nothing(
    words: list[str], message: str, cluster: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", *words) == 2
    err = capsys.readouterr().err
    assert err.count("Error: ") == 1
    assert message in " ".join(err.split())
    assert {path.name for path in cluster.iterdir()} == {"bin"}


def test_another_file_is_not_replaced(cluster: Path) -> None:
    (cluster / "r50.sbatch").write_text("mine")
    with pytest.raises(PanformerError, match=r"r50.sbatch exists and was not written by --slurm"):
        Job.parse("r50", KEYS).write(["train", "r50"], None)
    assert (cluster / "r50.sbatch").read_text() == "mine"


def test_a_refused_or_missing_sbatch_is_one_message(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cluster / "bin" / "sbatch").write_text("#!/bin/bash\necho 'sbatch: error: invalid account' >&2; exit 1\n")
    with pytest.raises(PanformerError, match=r"sbatch refused a.sbatch \(sbatch: error: invalid account\)"):
        submit(Path("a.sbatch"))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(PanformerError, match=r"sbatch was not found; a.sbatch is written: submit it on a login node"):
        submit(Path("a.sbatch"))
