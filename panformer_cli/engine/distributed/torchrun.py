"""What torchrun, or whatever sets the same variables, tells a process about its place among the others."""

from __future__ import annotations

import os
from dataclasses import dataclass

from panformer_cli.errors import PanformerError

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""A process that has all of them was started together with others.

https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables
"""


@dataclass(frozen=True)
class Place:
    """The place of a process: of all of them, and of those on its machine; ranks count from 0."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int

    @classmethod
    def of_this_process(cls) -> Place | None:
        """None for a process that was not started by torchrun.

        Raises:
            PanformerError: the variables say nothing that can be.
        """
        if not all(os.environ.get(name) for name in VARIABLES):
            return None
        words = [os.environ[name] for name in VARIABLES[:3]]
        words.append(os.environ.get("LOCAL_WORLD_SIZE") or words[1])  # only torchrun itself sets it
        try:
            place = cls(*map(int, words))
            int(os.environ["MASTER_PORT"])
        except ValueError:
            place = None
        if place is None or not (0 <= place.rank < place.world_size and 0 <= place.local_rank < place.local_world_size):
            said = ", ".join(f"{name}={os.environ[name]}" for name in VARIABLES)
            raise PanformerError(
                f"the environment has {said}: expected ranks from 0, below the number of processes, as torchrun sets "
                "them; unset these variables to run without torchrun"
            )
        return place

    @property
    def machines(self) -> int:
        return max(1, self.world_size // self.local_world_size)


def program_words() -> list[str]:
    """How to start the program again as it was started: the words before the name of the command."""
    place = Place.of_this_process()
    if place is None:
        return ["panformer"]
    machines = ["--nnodes", str(place.machines), "..."] if place.machines > 1 else []
    return ["torchrun", *machines, "--nproc-per-node", str(place.local_world_size), "-m", "panformer_cli"]
