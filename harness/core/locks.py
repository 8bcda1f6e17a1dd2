"""File locks between runs, with a callback when a lock must wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from harness.core import process
from harness.core.deadline import Deadline
from harness.core.errors import HostError


@contextmanager
def hold_lock(path: Path, *, deadline: Deadline, on_wait: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock file `path`; `on_wait` is called with a message when another run holds the lock.

    Raises HostError when that run still holds the lock at the deadline, or when this run is being stopped.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_wait("another run holds the lock; waiting")
        try:
            lock.acquire(timeout=deadline.remaining(), cancel_check=process.is_stopping)
        except Timeout:
            if process.is_stopping():
                raise HostError("the run is being stopped") from None
            raise HostError(
                "another run holds the lock and does not end", where=str(path), mend="end that run"
            ) from None
    try:
        yield
    finally:
        lock.release()
