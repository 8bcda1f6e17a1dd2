"""Child processes have the configured priority, even across sessions."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core.deadline import Deadline
from harness.core.process import run

_AUTOGROUP = Path("/proc/self/autogroup")


def test_a_nice_child_is_nice() -> None:
    """nice(1) of busybox and coreutils prints its value if it gets no arguments."""
    plain, nice = (int(run(["nice"], deadline=Deadline.after(60), nice=value).output) for value in (0, 3))
    assert nice == plain + 3


@pytest.mark.skipif(not _AUTOGROUP.exists(), reason="this kernel does not schedule by sessions")
def test_its_session_is_nice_too() -> None:
    """A nice value alone counts only within a session, and each child has a session of its own."""
    assert run(["cat", _AUTOGROUP], deadline=Deadline.after(60), nice=3).output.split()[1:] == ["nice", "3"]
    assert run(["cat", _AUTOGROUP], deadline=Deadline.after(60)).output.split()[1:] == ["nice", "0"]
