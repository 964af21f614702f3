"""The batch file of a training run for SLURM: it saves before the time limit, is requeued and resumes."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from panformer_cli.errors import INTERRUPTED, PanformerError
from panformer_cli.storage.files import atomic_write

_COUNT = r"[1-9]\d{0,5}"
_WORD = r"[\w.@+:/&|*\[\]-]+"
_KEYS = {
    "nodes": (_COUNT, "a number of machines"),
    "gpus": (_COUNT, "the number of GPUs of each machine"),
    "cpu_processes": (_COUNT, "a number of processes on each machine"),
    "time": (r"(\d+-)?\d+(:\d{1,2}){0,2}", "a time such as 24:00:00 or 2-12:00:00"),
    "cpus": (_COUNT, "the number of CPU cores of each machine"),
    "mem": (r"\d+[KMGT]?", "memory of each machine, such as 200G; 0 for all of it"),
    "partition": (_WORD, "the name of a partition"),
    "account": (_WORD, "the name of an account"),
    "qos": (_WORD, "the name of a quality of service"),
    "constraint": (_WORD, "a feature of the machines"),
}
"""Keys of `--slurm`: the pattern of a value, and what it is."""
_DIRECTIVES = {"gpus": "gpus-per-node", "cpus": "cpus-per-task"}
"""Options of sbatch that do not have the name of the key."""
_MARK = "# Written by panformer train --slurm."
_BODY = """\

set -uo pipefail
cd {folder}
{cores}HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
PORT=$((20000 + SLURM_JOB_ID % 10000))

# One launcher per machine; each starts its own processes.
srun --kill-on-bad-exit=1 bash -c 'exec "$@" --node-rank "$SLURM_NODEID"' panformer \\
    {command} \\
    --nodes "$SLURM_NNODES" --rendezvous "$HEAD:$PORT"
code=$?

if [ "$code" -eq {stopped} ]; then # stopped by a signal: saved, but not finished
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


@dataclass(frozen=True)
class Job:
    """A job of SLURM.

    Attributes:
        name: Name of the job.
        keys: Valid values by the keys of `--slurm`.
    """

    name: str
    keys: Mapping[str, str]

    @classmethod
    def parse(cls, name: str, text: str) -> Job:
        """Return the job that `text` (`KEY=VALUE,...`) describes.

        Raises:
            PanformerError: A key or a value is not valid, or neither GPUs nor CPU processes are requested.
        """
        keys: dict[str, str] = {}
        for item in text.split(","):
            key, equals, value = (part.strip() for part in item.partition("="))
            if not equals or key not in _KEYS:
                close = get_close_matches(key, _KEYS, n=1)
                guess = f"; did you mean {close[0]}?" if close and equals else ""
                raise PanformerError(f"--slurm: {item.strip()!r}: expected KEY=VALUE with {', '.join(_KEYS)}{guess}")
            pattern, meaning = _KEYS[key]
            if key in keys:
                raise PanformerError(f"--slurm: {key} is given twice")
            if not re.fullmatch(pattern, value, re.ASCII):
                raise PanformerError(f"--slurm: {key} is {value!r}: expected {meaning}")
            keys[key] = value
        if ("gpus" in keys) == ("cpu_processes" in keys):
            raise PanformerError("--slurm: expected gpus=N, the GPUs of each machine, or cpu_processes=N")
        return cls(re.sub(r"[^\w.-]", "_", name), keys)

    def write(self, words: Sequence[str], out: str | None) -> Path:
        """Write the batch file to the working directory, and return its path.

        Args:
            words: The command line after `panformer`, without processes, machines and `--resume`.
            out: The run folder in `words`; None for one that is named after the job.

        Raises:
            PanformerError: There is another file of this name.
        """
        path = Path(f"{self.name}.sbatch")
        if path.exists() and _MARK not in path.read_text(encoding="utf-8", errors="replace"):
            raise PanformerError(f"{path} exists and was not written by --slurm; move or delete it")
        with atomic_write(path) as temporary:
            temporary.write_text(self.text(words, out), encoding="utf-8")
        return path

    def text(self, words: Sequence[str], out: str | None) -> str:
        """Return the content of the batch file; arguments as for `write`."""
        processes = "gpus" if "gpus" in self.keys else "cpu_processes"
        own = [f"--{processes.replace('_', '-')}", self.keys[processes], "--resume", "auto"]
        command = shlex.join([sys.executable, "-m", "panformer_cli", *words, *own])
        if out is None:  # a requeued job keeps its id
            command += f' --out "runs/{self.name}/slurm-$SLURM_JOB_ID"'
        cores = "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK\n" if "cpus" in self.keys else ""
        body = _BODY.format(folder=shlex.quote(str(Path.cwd())), cores=cores, command=command, stopped=INTERRUPTED)
        return self._head() + body

    def _head(self) -> str:
        options = {"job-name": self.name, "nodes": "1", "ntasks-per-node": "1"}
        asked = {_DIRECTIVES.get(key, key): value for key, value in self.keys.items() if key != "cpu_processes"}
        options |= {**asked, "open-mode": "append", "output": "%x-%j.log"}
        lines = ["#!/bin/bash", _MARK, *(f"#SBATCH --{name}={value}" for name, value in options.items())]
        lines += ["# Two minutes before the time limit, all processes get a signal to save and stop.", _SIGNAL]
        lines += ["# After a failure of a machine or a preemption, SLURM starts the job again; it resumes.", _REQUEUE]
        return "\n".join(lines) + "\n"


_SIGNAL, _REQUEUE = "#SBATCH --signal=USR1@120", "#SBATCH --requeue"


def submit(path: Path) -> str:
    """Submit a batch file and return what sbatch printed.

    Raises:
        PanformerError: There is no sbatch, or it refused the file.
    """
    program = shutil.which("sbatch")
    if program is None:
        raise PanformerError(
            f"--submit: sbatch was not found; {path} is written: submit it on a login node with `sbatch {path}`"
        )
    done = subprocess.run([program, str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise PanformerError(f"--submit: sbatch refused {path} ({reason}); change the options or edit the file")
    return done.stdout.strip()
