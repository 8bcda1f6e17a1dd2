"""The place at which a crash trigger is expected is what the kernel of the guest can print."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from harness.core.architecture_table import ARCHITECTURES
from harness.guest.guest import Guest
from harness.verdict.complaints import read_sorted_complaints
from harness.verdict.crash_triggers import QUICK, CrashModule, TriggerResult
from harness.verdict.liveness import Condition, Diagnosis


@pytest.mark.parametrize(
    ("arch", "config", "place"),
    [
        ("mips64el", {"CONFIG_GENERIC_BUG": "y"}, "crash/faults.c"),
        ("mips64el", {}, "pinpoint_bug"),
        ("sparc64", {}, "crash/faults.c"),
    ],
    ids=["table of BUGs", "no table", "no table, BUG() prints its place"],
)
def test_a_kernel_whose_bug_prints_no_file_names_the_function(arch: str, config: dict[str, str], place: str) -> None:
    crash = object.__new__(CrashModule)
    image = SimpleNamespace(config=config)
    crash.guest = cast(Guest, SimpleNamespace(image=image, architecture=ARCHITECTURES[arch]))
    crash._possible = ["warn", "bug", "null_read"]
    expected = {each.name: each.expected_place for each in crash.detectable_triggers(QUICK)}
    assert expected == {"warn": "crash/faults.c", "bug": place, "null_read": "pinpoint_null_read"}


@pytest.mark.parametrize(
    ("config", "right"),
    [({"CONFIG_GENERIC_BUG": "y"}, True), ({"CONFIG_GENERIC_BUG": "y", "CONFIG_DEBUG_BUGVERBOSE": "y"}, False)],
    ids=["table without files", "table with files"],
)
def test_a_function_is_a_place_only_where_the_table_has_no_files(config: dict[str, str], right: bool) -> None:
    crash = object.__new__(CrashModule)
    image = SimpleNamespace(config=config)
    crash.guest = cast(Guest, SimpleNamespace(image=image, architecture=ARCHITECTURES["ppc64le"]))
    crash._possible = ["warn"]
    printed = "[    7.479936] WARNING: CPU: 0 PID: 137 at pinpoint_warn+0x2c/0x50 [pinpoint_crash]\n"
    complaints = read_sorted_complaints(printed, ()).alarming
    for trigger in crash.detectable_triggers(QUICK):
        result = TriggerResult(trigger, complaints, Diagnosis(Condition.OOPSED, ""), 0.0)
        assert result.is_read_correctly is right


@pytest.mark.parametrize(
    ("printed", "right"),
    [
        ("WARNING: CPU: 0 PID: 125 at probes/crash/faults.c:25 pinpoint_warn+0x14/0x24 [pinpoint_crash]", True),
        ("WARNING: crash/faults.c:25 at pinpoint_warn+0x14/0x24 [pinpoint_crash], CPU#0: sh/125", True),
        ("WARNING: lib/crash/faults.c:25 at pinpoint_warn+0x14/0x24 [pinpoint_crash], CPU#0: sh/125", False),
    ],
    ids=["6.1", "6.19", "another directory"],
)
def test_a_file_is_named_with_and_without_the_directory_of_the_modules(printed: str, right: bool) -> None:
    complaints = read_sorted_complaints(f"[    7.479936] {printed}\n", ()).alarming
    warn = next(each for each in QUICK if each.name == "warn")
    result = TriggerResult(warn, complaints, Diagnosis(Condition.OOPSED, ""), 0.0)
    assert [each.kind.value for each in complaints] == ["WARNING"]
    assert result.is_read_correctly is right
