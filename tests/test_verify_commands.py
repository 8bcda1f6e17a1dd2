"""`./pinpoint verify --run` waits until the probes of a command are enabled, and no longer than that is possible."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from harness.guest.guest import Guest
from harness.guest.result import Result
from harness.landing.probe_module import ListedProbe
from harness.landing.verify.watch_and_judge_registrations import WatchedGuest
from harness.matrix.verify.plan import ModuleToLoad
from harness.matrix.verify.run import may_leave_probes
from harness.matrix.verify.subjects import Command, Modules

DISABLED = ListedProbe(16, "f+0x0", ("[DISABLED]",))
ENABLED = ListedProbe(16, "f+0x0", ())
OTHER = ListedProbe(32, "g+0x0", ("[DISABLED]",))


@dataclass
class Deadline:
    expired: bool = False


@dataclass
class FakeGuest:
    """A guest in which the command runs or has ended."""

    runs: bool = True
    deadlines: list[Deadline] = field(default_factory=list)

    def run_script(self, *_: object) -> Result:
        return Result("vm", (), 0, b"1\n" if self.runs else b"0\n", b"", 0.0)

    def scaled_deadline(self, _: float) -> Deadline:
        self.deadlines.append(Deadline())
        return self.deadlines[-1]


class FakeWatched:
    """Passes these lists to what waits, and records whether it was satisfied by each."""

    def __init__(self, *lists: list[ListedProbe], after: Callable[[int], None] = lambda _: None) -> None:
        self.lists = lists
        self.after = after
        self.ready: list[bool] = []

    def await_settled_lists(self, _least: float, _longest: float, wanted: Callable[[object], bool]) -> None:
        for index, listed in enumerate(self.lists):
            self.ready.append(wanted(listed))
            self.after(index)

    def newly_listed(self, listed: list[ListedProbe]) -> list[ListedProbe]:
        return listed

    def has_new_registrations(self, listed: list[ListedProbe]) -> bool:
        return bool(listed)

    def read_lists(self) -> list[ListedProbe]:
        return self.lists[-1]


def ready(guest: FakeGuest, watched: FakeWatched) -> list[bool]:
    command = Command(cast("Guest", guest), "true", None, chroot=False)
    command.wait_until_registered(cast("WatchedGuest", watched))
    return watched.ready


def test_a_running_command_is_given_time_to_enable_its_probes() -> None:
    assert ready(FakeGuest(), FakeWatched([], [DISABLED], [DISABLED], [ENABLED])) == [False, False, False, True]


def test_what_a_command_that_ended_left_disabled_is_judged_at_once() -> None:
    assert ready(FakeGuest(runs=False), FakeWatched([DISABLED])) == [True]


def test_a_program_that_registers_nothing_has_a_limit_of_its_own() -> None:
    """The script of systemtap whose module is absent: stapio runs, and there is no probe."""
    guest = FakeGuest()

    def expire(index: int) -> None:
        guest.deadlines[-1].expired = index == 1

    command = Command(cast("Guest", guest), "staprun", None, chroot=True, running_program="stapio")
    watched = FakeWatched([], [], [], after=expire)
    command.wait_until_registered(cast("WatchedGuest", watched))
    assert watched.ready == [False, False, True]


@pytest.mark.parametrize(("last", "is_ready"), [([DISABLED], True), ([DISABLED, OTHER], False)])
def test_probes_that_stay_disabled_are_judged_after_a_while(last: list[ListedProbe], *, is_ready: bool) -> None:
    """Another disabled probe begins the wait anew."""
    guest = FakeGuest()

    def expire(_: int) -> None:
        guest.deadlines[-1].expired = True

    assert ready(guest, FakeWatched([DISABLED], last, after=expire)) == [False, is_ready]


class Unloading:
    """A guest whose rmmod fails or not."""

    def __init__(self, *, fails: bool) -> None:
        self.result = Result("vm", (), int(fails), b"", b"rmmod: Device or resource busy\n" if fails else b"", 0.0)

    def run_script(self, _: str) -> Result:
        return self.result


@pytest.mark.parametrize("fails", [True, False])
def test_a_module_that_cannot_be_unloaded_may_leave_its_probes(fails: bool) -> None:
    """One without an exit function, or a livepatch that is enabled: that is no fault of its probes."""
    module = ModuleToLoad("mine", Path("mine.ko"), Path("mine.ko"))
    modules = Modules(cast(Guest, Unloading(fails=fails)), [module], "insmod", None)
    modules.loaded_modules.append(module)
    modules.stop()
    assert may_leave_probes(modules) is fails
    assert modules.notes == (["mine was not unloaded: rmmod: Device or resource busy"] if fails else [])
