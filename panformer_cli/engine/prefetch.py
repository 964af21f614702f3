"""Work beside a model on a GPU: the next images are read, and results finished, in threads while it computes.

Decoding, resizing and compressing of pictures leave Python's lock to others, so threads are enough. A model on the CPU
needs the cores itself: there, everything comes one after the other (docs/performance.md has the times).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar, cast

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_WORKERS = 8
IMAGES_AHEAD = 4


def workers_beside(device: torch.device) -> int:
    """Threads that finish results; 0: none besides the one that runs the model."""
    return 0 if device.type == "cpu" else min(MOST_WORKERS, os.cpu_count() or 1)


def images_ahead(device: torch.device) -> int:
    """Images that are read before they are asked for."""
    return 0 if device.type == "cpu" else IMAGES_AHEAD


def ahead(items: Iterable[Item], count: int) -> Iterator[Item]:
    """The items in their order; a thread takes up to `count` of them before they are asked for; 0: no thread.

    What `items` raises is raised where the item is asked for.
    """
    if count == 0:
        yield from items
        return
    end = object()
    iterator = iter(items)
    with ThreadPoolExecutor(1, "ahead") as pool:
        waiting: deque[Future[object]] = deque(pool.submit(next, iterator, end) for _ in range(count))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, iterator, end))
            yield cast(Item, item)


def behind(items: Iterable[Item], work: Callable[[Item], Result], workers: int) -> Iterator[Result]:
    """`work` of every item, in the order of the items; threads do it while the next items are made.

    Not more than `2 * workers` items are unfinished; with no workers each is done before the next is made. What `work`
    raises is raised in the place of its result.
    """
    if workers == 0:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(workers, "behind") as pool:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            while waiting and (len(waiting) > 2 * workers or waiting[0].done()):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
