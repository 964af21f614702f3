"""Threads beside a model on a GPU: the next images are read, and results finished, while it computes.

Decoding, resizing and compressing images release Python's lock, so threads are enough.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar, cast

Item = TypeVar("Item")
Result = TypeVar("Result")

IMAGES_AHEAD = 4
WORKERS = min(8, os.cpu_count() or 1)


def ahead(items: Iterable[Item], count: int = IMAGES_AHEAD) -> Iterator[Item]:
    """Yield the items in their order; a thread takes up to `count` of them, 1 or more, before they are asked for.

    What `items` raises is raised where the item is asked for.
    """
    end = object()
    iterator = iter(items)
    with ThreadPoolExecutor(1, "ahead") as pool:
        waiting: deque[Future[object]] = deque(pool.submit(next, iterator, end) for _ in range(count))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, iterator, end))
            yield cast(Item, item)


def behind(items: Iterable[Item], work: Callable[[Item], Result], workers: int = WORKERS) -> Iterator[Result]:
    """Yield `work` of every item, in the order of the items; threads do it while the next items are made.

    Not more than `2 * workers` items are unfinished. What `work` raises is raised in the place of its result.
    """
    with ThreadPoolExecutor(workers, "behind") as pool:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            while waiting and (len(waiting) > 2 * workers or waiting[0].done()):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
