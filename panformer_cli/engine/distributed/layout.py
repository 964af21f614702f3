"""How the processes of a command are laid out: on how many machines, and how these meet; no torch import here."""

from __future__ import annotations

import re
from dataclasses import dataclass

from panformer_cli.errors import PanformerError

_PORTS = range(1, 2**16)


@dataclass(frozen=True)
class Layout:
    """The processes that a launcher starts on this machine, one of `nodes`.

    Attributes:
        processes: Number of processes on this machine, 1 or more.
        nodes: Number of machines, 1 or more.
        node_rank: This machine, 0 .. nodes - 1.
        rendezvous: `HOST:PORT`, where machine 0 waits for the others; None for a free port of a single machine.
        max_restarts: How often all processes are started again after one of them failed.

    Raises:
        PanformerError: The values contradict each other.
    """

    processes: int = 1
    nodes: int = 1
    node_rank: int = 0
    rendezvous: str | None = None
    max_restarts: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.node_rank < self.nodes:
            raise PanformerError(
                f"--node-rank is {self.node_rank}, and --nodes is {self.nodes}: expected 0 to {self.nodes - 1}"
            )
        if self.rendezvous is not None:
            self._check_rendezvous(self.rendezvous)
        elif self.nodes > 1:
            raise PanformerError(
                "--nodes needs --rendezvous HOST:PORT, the name of the machine with --node-rank 0 and a free port on it"
            )

    @property
    def endpoint(self) -> str:
        """Where the launchers of all machines meet."""
        return self.rendezvous or "localhost:0"

    def options(self) -> list[str]:
        """Return the options of the command line for other values than the defaults, without the processes."""
        given = {"--nodes": self.nodes, "--node-rank": self.node_rank, "--rendezvous": self.rendezvous}
        words = [str(word) for pair in given.items() for word in pair] if self.rendezvous else []
        return words + (["--max-restarts", str(self.max_restarts)] if self.max_restarts else [])

    @staticmethod
    def _check_rendezvous(endpoint: str) -> None:
        found = re.fullmatch(r"[^\s:]+:(\d{1,5})|\[[0-9a-fA-F:.]+\]:(\d{1,5})", endpoint)
        if found is None or int(found[1] or found[2]) not in _PORTS:
            raise PanformerError(f"--rendezvous is {endpoint!r}: expected HOST:PORT, such as node1:29500")
