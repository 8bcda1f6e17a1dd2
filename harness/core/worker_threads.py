"""Threads that a caller waits for. When the run is interrupted, its children end, and with them the threads' waits."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from harness.core import process


class WorkerThreads(ThreadPoolExecutor):
    """A pool for `with`. If its block is left because the run is interrupted, all children of the run are ended first.

    `with` waits for the threads. They wait for guests and programs, and would start the next one: without this, SIGTERM
    or Ctrl-C would take as long as their work.
    """

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not issubclass(kind, Exception):
            process.stop_all()
            self.shutdown(wait=False, cancel_futures=True)
        super().__exit__(kind, error, trace)
