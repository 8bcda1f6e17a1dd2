"""One run at a time: file locks that say so when they must wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from harness.core import process
from harness.core.deadline import Deadline
from harness.core.errors import HostError


@contextmanager
def held(path: Path, *, deadline: Deadline, on_wait: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock file `path`; `on_wait` is told when another run holds it first.

    Raises HostError when that run still holds it at the deadline, or when this run is being stopped.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_wait("another run is at it; waiting")
        try:
            lock.acquire(timeout=deadline.remaining(), cancel_check=process.stopping)
        except Timeout:
            if process.stopping():
                raise HostError("the run is being stopped") from None
            raise HostError("another run holds it and does not end", where=str(path), mend="end that run") from None
    try:
        yield
    finally:
        lock.release()
