"""A run that waits for a file lock reports it, stops waiting at its deadline, and stops at once if it is stopped."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from harness.core import locks, process
from harness.core.deadline import Deadline
from harness.core.errors import HostError


@pytest.fixture
def taken(tmp_path: Path) -> Iterator[Path]:
    """Yield a lock that another run holds."""
    with FileLock(tmp_path / "lock") as lock:
        yield Path(lock.lock_file)


def test_a_free_lock_is_taken_in_silence(tmp_path: Path) -> None:
    reported: list[str] = []
    with locks.hold_lock(tmp_path / "below" / "lock", deadline=Deadline.after(60), on_wait=reported.append):
        pass
    assert reported == []


def test_a_lock_that_is_not_given_back_in_time(taken: Path) -> None:
    reported: list[str] = []
    with (
        pytest.raises(HostError, match="another run holds the lock and does not end; end that run"),
        locks.hold_lock(taken, deadline=Deadline.after(0.1), on_wait=reported.append),
    ):
        pass
    assert reported == ["another run holds the lock; waiting"]


def test_a_run_that_is_stopped_does_not_wait_on(taken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closing = threading.Event()
    monkeypatch.setattr(process, "_closing", closing)
    began = time.monotonic()
    threading.Timer(0.2, closing.set).start()
    with (
        pytest.raises(HostError, match="the run is being stopped"),
        locks.hold_lock(taken, deadline=Deadline.after(300), on_wait=lambda _told: None),
    ):
        pass
    assert time.monotonic() - began < 120
