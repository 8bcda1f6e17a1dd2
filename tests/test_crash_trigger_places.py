"""The place at which a crash trigger is expected is what the kernel of the guest can print."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from harness.guest.guest import Guest
from harness.verdict.crash_triggers import QUICK, CrashModule


@pytest.mark.parametrize(
    ("config", "places"),
    [
        ({"CONFIG_GENERIC_BUG": "y"}, {"bug": "probes/crash/faults.c", "null_read": "pinpoint_null_read"}),
        ({}, {"bug": "pinpoint_bug", "null_read": "pinpoint_null_read"}),
    ],
    ids=["table of BUGs", "no table"],
)
def test_a_kernel_without_a_table_of_bugs_names_the_function(config: dict[str, str], places: dict[str, str]) -> None:
    crash = object.__new__(CrashModule)
    crash.guest = cast(Guest, SimpleNamespace(image=SimpleNamespace(config=config)))
    crash._possible = ["bug", "null_read"]
    assert {each.name: each.expected_place for each in crash.detectable_triggers(QUICK)} == places
