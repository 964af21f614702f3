"""How many actors a cluster has room for, and what is reported before a cluster is needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from panformer_cli.engine.on_ray import cluster
from panformer_cli.engine.on_ray.cluster import Actors
from panformer_cli.engine.on_ray.options import RayOptions, check_outputs
from panformer_cli.errors import PanformerError
from tests.helpers import run


@pytest.mark.parametrize(
    ("options", "cpus", "gpus", "expected"),
    [
        (RayOptions(), 2, 0, Actors(1, 2, 0)),
        (RayOptions(), 16, 0, Actors(4, 4, 0)),
        (RayOptions(actors=2), 2, 0, Actors(2, 1, 0)),
        (RayOptions(actors=3, cpus=2), 16, 0, Actors(3, 2, 0)),
        (RayOptions(), 16, 4, Actors(4, 4, 1)),
        (RayOptions(gpus=0.5), 16, 4, Actors(8, 2, 0.5)),
        (RayOptions(device="cpu"), 16, 4, Actors(4, 4, 0)),
        (RayOptions(device="cuda", actors=1, cpus=3), 16, 4, Actors(1, 3, 1)),
    ],
)
def test_actors_share_the_cluster(options: RayOptions, cpus: int, gpus: int, expected: Actors) -> None:
    actors = Actors.of(options, cpus, gpus)
    assert actors == expected
    assert actors.device == ("cuda" if expected.gpus else "cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (RayOptions(actors=3, device="cpu"), "3 actors of 1 CPU need 3 CPUs, but the cluster has 2 CPUs and 1 GPU"),
        (RayOptions(actors=2, gpus=0.6), "2 actors of 1 CPU and 0.6 GPUs need 2 CPUs and 1.2 GPUs"),
        (RayOptions(cpus=3), "1 actor of 3 CPUs and 1 GPU need 3 CPUs and 1 GPU, but"),
    ],
)
def test_a_cluster_that_is_too_small_is_reported(options: RayOptions, message: str) -> None:
    """Ray would wait for ever."""
    with pytest.raises(PanformerError, match=message):
        Actors.of(options, 2, 1)
    with pytest.raises(PanformerError, match="0 GPUs"):
        Actors.of(RayOptions(device="cuda"), 2, 0)


def test_contradictions_and_unknown_outputs_are_reported() -> None:
    with pytest.raises(PanformerError, match="--device cpu and --actor-gpus 0.5 contradict"):
        RayOptions(device="cpu", gpus=0.5)
    with pytest.raises(PanformerError, match="--device mps"):
        RayOptions(device="mps")
    with pytest.raises(PanformerError, match="--save masks,json: --engine ray writes Parquet files"):
        check_outputs(["panoptic", "masks", "json"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--engine", "ray"],
            "needs the package ray, which is not installed; install it with: pip install 'panformer[ray]'",
        ),
        (["--engine", "ray", "--gallery"], "--engine ray predicts images, without --gallery"),
        (["--engine", "ray", "--cpu-processes", "1"], "do not apply to --engine ray: use --actors"),
        (["--actors", "2", "--block-size", "8"], "--actors and --block-size only apply with --engine ray"),
    ],
)
def test_the_command_reports_before_it_looks_for_images(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    assert run("predict", str(tmp_path / "missing"), "--out", str(tmp_path / "out"), *words) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
