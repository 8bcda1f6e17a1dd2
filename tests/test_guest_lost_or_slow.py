"""After a guest missed a deadline, the next waits for it are shorter."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.core.deadline import Deadline
from harness.core.errors import DeadlineExceeded
from harness.guest.guest import Guest
from harness.guest.result import Result


class Shell:
    """Answers or lets the deadline pass, and records each deadline."""

    def __init__(self) -> None:
        self.answers = True
        self.given: list[float] = []

    def run_program(self, argv: Sequence[str], deadline: Deadline, *, in_place: bool) -> Result:
        assert not in_place
        self.given.append(round(deadline.remaining()))
        if not self.answers:
            raise DeadlineExceeded("no answer")
        return Result("a-vm", tuple(argv), 0, b"", b"", 0.0)


def guest_with(shell: Shell) -> Guest:
    monitor = SimpleNamespace(call_when_guest_stops=lambda _: None, is_guest_paused=False)
    image = SimpleNamespace(recipe=SimpleNamespace(name="a-vm"))
    guest = Guest(cast(Any, image), cast(Any, SimpleNamespace(monitor=monitor, pid=os.getpid())), cast(Any, None))
    guest.__dict__["_shell"] = shell
    return guest


def test_silence_makes_the_next_waits_short_until_an_answer_comes() -> None:
    shell = Shell()
    guest = guest_with(shell)
    for answers in (True, False, False, True, True):
        shell.answers = answers
        if answers:
            guest.run("true")
        else:
            with pytest.raises(DeadlineExceeded):
                guest.run("true")
    assert shell.given == [120, 120, 10, 10, 120]


def test_a_guest_that_is_slow_here_is_waited_for_longer() -> None:
    shell = Shell()
    guest = guest_with(shell)
    guest.heartbeat = cast(Any, SimpleNamespace(slowness=3.0))
    guest.run("true")
    shell.answers = False
    for _ in range(2):
        with pytest.raises(DeadlineExceeded):
            guest.run("true")
    assert shell.given == [360, 360, 30]
