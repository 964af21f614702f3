"""The options of a prediction that concern the cluster."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from panformer_cli.errors import PanformerError

USUAL = ("panoptic", "segments")
"""The outputs by default."""
OUTPUTS = (*USUAL, "overlay", "instances", "semantic", "polygons")
"""The outputs with one file for each image, which become columns."""
BLOCK_SIZE = 64


@dataclass(frozen=True)
class RayOptions:
    """How the images are distributed.

    Attributes:
        actors: Number of actors, each with a model of its own, 1 or more; None for one for each GPU, or on the CPU for
            one for every four CPUs.
        cpus: CPUs of an actor, which are also its threads, 1 or more; None for an equal share of all CPUs.
        gpus: GPUs of an actor, at most 1: several actors share a GPU if it is a fraction. None for one GPU, or none on
            the CPU.
        block_size: Images of a Parquet file, 1 or more. An actor predicts the images of one file at a time.
        device: `auto` (GPUs if the cluster has any), `cpu` or `cuda`.
    """

    actors: int | None = None
    cpus: int | None = None
    gpus: float | None = None
    block_size: int = BLOCK_SIZE
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda"):
            raise PanformerError(f"--device {self.device}: Ray assigns the GPUs of its machines; expected cpu or cuda")
        if self.device == "cpu" and self.gpus:
            raise PanformerError(f"--device cpu and --actor-gpus {self.gpus:g} contradict each other; omit one of them")


def check_outputs(names: Iterable[str]) -> None:
    """Raise a PanformerError if an output cannot be a column of a Parquet file."""
    chosen = list(names)
    if not chosen or (other := [name for name in chosen if name not in OUTPUTS]):
        raise PanformerError(
            f"--save {','.join(other if chosen else chosen) or 'names no output'}: --engine ray writes Parquet files "
            f"with the outputs {', '.join(OUTPUTS)}; choose from these, or leave out --engine ray"
        )
