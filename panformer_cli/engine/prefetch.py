"""Read the next images and finish results in threads while a model runs on a GPU.

Decoding, resizing and compressing images release the GIL, so threads are sufficient.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar, cast

Item = TypeVar("Item")
Result = TypeVar("Result")

IMAGES_AHEAD = 4
WORKERS = min(8, os.cpu_count() or 1)


def ahead(items: Iterable[Item], count: int = IMAGES_AHEAD) -> Iterator[Item]:
    """Yield the items in order; a thread prefetches up to `count` of them, 1 or more.

    If `items` raises, the exception is raised when the item would be yielded.
    """
    end = object()
    iterator = iter(items)
    with _threads(1, "ahead") as pool:
        waiting: deque[Future[object]] = deque(pool.submit(next, iterator, end) for _ in range(count))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, iterator, end))
            yield cast(Item, item)


def behind(items: Iterable[Item], work: Callable[[Item], Result], workers: int = WORKERS) -> Iterator[Result]:
    """Yield `work(item)` for every item, in order; threads run it while the next items are produced.

    At most `2 * workers` items are unfinished. If `work` raises, the exception is raised instead of the result.
    """
    with _threads(workers, "behind") as pool:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            while waiting and (len(waiting) > 2 * workers or waiting[0].done()):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def _threads(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Yield threads; at the end, what they have begun is finished. After an error or Ctrl-C, nothing else is begun."""
    pool = ThreadPoolExecutor(count, name)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
