"""Worker processes: results in order, a dead worker is an error, and no worker outlives its parent."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import TypeVar

from voxtok.runtime.errors import VoxtokError

T = TypeVar("T")
R = TypeVar("R")


def in_workers(function: Callable[[T], R], tasks: Sequence[T], workers: int) -> Iterator[R]:
    """Run a function over tasks in fresh processes, and yield the results in the order of the tasks.

    A worker imports the function's module and no more, so it starts as fast as that module does.

    Raises:
        VoxtokError: a process died. What the function raises is raised here too.
    """
    workers = min(workers, max(len(tasks), 1))
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=leave_with_parent)
    try:
        yield from pool.map(function, tasks)
    except BrokenProcessPool as error:
        raise VoxtokError(
            "a worker process died: it ran out of memory or was killed; or this runs in a script whose work is not "
            'under `if __name__ == "__main__":`, where Python cannot start processes'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def leave_with_parent() -> None:
    """End this worker when its parent dies: a pool's idle workers would wait for ever for a killed one."""

    def wait() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
