"""A guest whose clock is too fast after its boot is stopped, and another one is booted."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

import pytest

from harness.core.errors import GuestError
from harness.guest import start
from harness.guest.boot_clock_check import READ_CLOCK_COMMAND, GuestClockWrong, check_boot_clock
from harness.guest.result import Result

LOOP_SECONDS = 0.2


def guest_with_a_clock(times_as_fast: float) -> Callable[[str], Result]:
    """Return a function that runs a script in a guest with such a clock; only the loop takes time."""
    began = time.monotonic()

    def run(script: str) -> Result:
        if script != READ_CLOCK_COMMAND:
            time.sleep(LOOP_SECONDS)
        seconds = 100 + times_as_fast * (time.monotonic() - began)
        return Result("a-vm", ("sh",), 0, f"{seconds:.2f} 0.00\n".encode(), b"", 0.0)

    return run


def test_a_clock_that_keeps_the_time_is_accepted() -> None:
    check_boot_clock(guest_with_a_clock(1.0))


def test_a_clock_that_is_too_fast_is_an_error() -> None:
    with pytest.raises(GuestClockWrong, match=r"a-vm: its clock runs [0-9.]+ times as fast as the host's"):
        check_boot_clock(guest_with_a_clock(13.0))


def test_a_clock_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(GuestError, match="the guest's clock cannot be read"):
        check_boot_clock(lambda _: Result("a-vm", ("sh",), 0, b"soon\n", b"", 0.0))


@pytest.mark.parametrize(("wrong", "boots"), [(0, 1), (1, 2), (3, 4), (4, 4)])
def test_a_guest_with_a_wrong_clock_is_replaced_three_times_at_most(
    monkeypatch: pytest.MonkeyPatch, wrong: int, boots: int
) -> None:
    tried = 0

    def begin(*_: object) -> str:
        nonlocal tried
        tried += 1
        if tried <= wrong:
            raise GuestClockWrong("too fast")
        return "guest"

    monkeypatch.setattr(start, "_begin", begin)
    if wrong < boots:
        assert cast(Any, start.boot(cast(Any, None), cast(Any, None))) == "guest"
    else:
        with pytest.raises(GuestClockWrong):
            start.boot(cast(Any, None), cast(Any, None))
    assert tried == boots
