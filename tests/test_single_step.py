"""A call that does not return is detected from outside, and only if the CPU is at an address without a function."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from harness.core.errors import GuestLost
from harness.core.qemu_registers import RegisterParser
from harness.landing import past_end
from harness.landing.checks import single_step

NOWHERE, FUNCTION = 0x810050, 0x10143480


class Scene:
    """A guest whose CPU cycles through these addresses, and whose call hangs until the guest is stopped."""

    def __init__(self, *addresses: int) -> None:
        self._addresses = addresses
        self._looks = 0
        self.stopped = threading.Event()

    @property
    def layout(self) -> Any:  # noqa: ANN401 - stands in
        traits = SimpleNamespace(register_parser=RegisterParser(r"pc=(\w+)", "", 0))
        monitor = SimpleNamespace(hmp=lambda _: f"pc={self._next():x}")
        guest = SimpleNamespace(
            architecture=SimpleNamespace(kprobe_traits=traits), monitor=monitor, stop=self.stopped.set
        )
        return SimpleNamespace(guest=guest, describe_address=hex)

    def _next(self) -> int:
        self._looks += 1
        return self._addresses[self._looks % len(self._addresses)]

    def hang(self) -> str:
        self.stopped.wait(10)
        raise GuestLost("stopped", where="a-vm")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single_step, "_PATIENCE", 0.05)
    monkeypatch.setattr(single_step, "_LOOK_PAUSE", 0.001)
    monkeypatch.setattr(single_step, "_LOOKS", 100)
    monkeypatch.setattr(past_end, "is_in_any_function", lambda _, address: address == FUNCTION)


def test_a_call_that_comes_back_is_its_answer() -> None:
    scene = Scene(NOWHERE)
    assert single_step._called(scene.layout, lambda: "0xfeed") == ("0xfeed", None)
    assert not scene.stopped.is_set()


def test_an_endless_trap_is_ended_though_its_handler_is_seen_more_often() -> None:
    scene = Scene(NOWHERE, FUNCTION, FUNCTION)
    probed, stands = single_step._called(scene.layout, scene.hang)
    assert (probed, stands and stands.is_stuck_outside_functions, scene.stopped.is_set()) == ("", True, True)


class Console:
    """A console on which the kernel prints an oops when the call has begun; what was printed before does not count."""

    position = 4

    def text(self, since: int) -> str:
        return "oops and another oops"[since:]


def _with_console(scene: Scene, console: Console) -> Any:  # noqa: ANN401 - stands in
    layout = scene.layout
    layout.guest.console = console
    return layout


def test_a_call_that_does_not_come_back_after_its_oops_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single_step, "_PATIENCE_AFTER_OOPS", 0.05)
    scene = Scene(FUNCTION)
    returned, stands = single_step._called(_with_console(scene, Console()), scene.hang, "another oops")
    assert (returned, stands and stands.symbol_offset) == ("", hex(FUNCTION))
    assert scene.stopped.is_set()


def test_a_call_that_comes_back_after_its_oops_is_its_answer() -> None:
    scene = Scene(FUNCTION)

    def late() -> str:
        assert not scene.stopped.wait(0.2)
        return "0xfeed"

    assert single_step._called(_with_console(scene, Console()), late, "another oops") == ("0xfeed", None)
    assert not scene.stopped.is_set()


def test_an_oops_before_the_call_is_not_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single_step, "_PATIENCE_AFTER_OOPS", 0.01)
    scene = Scene(FUNCTION)

    def late() -> str:
        assert not scene.stopped.wait(0.5)
        return "0xfeed"

    assert single_step._called(_with_console(scene, Console()), late, "oops and") == ("0xfeed", None)


def test_one_that_is_only_slow_is_waited_for() -> None:
    scene = Scene(FUNCTION)
    threading.Timer(0.5, scene.stopped.set).start()
    probed, stands = single_step._called(scene.layout, scene.hang)
    assert (probed, stands and stands.is_stuck_outside_functions) == ("", False)
    assert "in a function" in str(stands)
