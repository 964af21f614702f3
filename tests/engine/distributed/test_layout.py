"""The processes of several machines: which options belong together."""

from __future__ import annotations

from typing import Any

import pytest

from panformer_cli.engine.distributed.layout import Layout
from panformer_cli.errors import PanformerError


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"nodes": 2, "node_rank": 2, "rendezvous": "a:1"}, "--node-rank is 2, and --nodes is 2: expected 0 to 1"),
        ({"node_rank": 1}, "--node-rank is 1, and --nodes is 1: expected 0 to 0"),
        ({"nodes": 2}, "--nodes needs --rendezvous HOST:PORT"),
        ({"rendezvous": "node1"}, "--rendezvous is 'node1': expected HOST:PORT, such as node1:29500"),
        ({"rendezvous": "node1:0"}, "expected HOST:PORT"),
        ({"rendezvous": "node1:70000"}, "expected HOST:PORT"),
        ({"rendezvous": ":29500"}, "expected HOST:PORT"),
        ({"rendezvous": "http://node1:29500"}, "expected HOST:PORT"),
        ({"rendezvous": "node 1:29500"}, "expected HOST:PORT"),
    ],
)
def test_contradicting_options_are_one_message(given: dict[str, Any], message: str) -> None:
    with pytest.raises(PanformerError, match=message):
        Layout(**given)


@pytest.mark.parametrize("endpoint", ["node1:29500", "10.0.0.1:1", "node1.cluster.local:65535", "[::1]:29500"])
def test_an_endpoint(endpoint: str) -> None:
    layout = Layout(2, 3, 1, endpoint, 4)
    assert layout.endpoint == endpoint
    options = ["--nodes", "3", "--node-rank", "1", "--rendezvous", endpoint, "--max-restarts", "4"]
    assert layout.options() == options


def test_a_single_machine_uses_any_free_port() -> None:
    assert Layout(2).endpoint == "localhost:0"
    assert Layout(2).options() == []
