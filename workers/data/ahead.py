"""Work ahead: what is needed next is made by other threads while what is there is used.

Knows threads. Must not know images, features or backbones.
"""

import contextvars
import os
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")

MOST = 8
"""Threads at most that read and decode: each may hold one decoded image."""


def ahead(items: Iterator[T], *, several: bool = True) -> Generator[T]:
    """The items, in order; each is made in another thread while the one before is used, if there are several.

    An exception of the iterator comes out in its place in the order.
    """
    context = contextvars.copy_context()  # so that a line of the log names the task from there, too
    threads = torch.get_num_threads()

    def one() -> T | None:
        return next(items, None)

    try:
        if not several:
            yield from items
            return
        with ThreadPoolExecutor(1) as other:
            coming = other.submit(context.run, one)
            while (item := coming.result()) is not None:
                coming = other.submit(context.run, one)
                yield item
    finally:
        torch.set_num_threads(threads)  # which `hands` changes for threads to come


@contextmanager
def hands() -> Iterator[ThreadPoolExecutor]:
    """Threads that read and decode, with one torch thread each: sixteen times sixteen would wait for each other."""
    count = min(MOST, os.cpu_count() or 1)
    with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield pool
