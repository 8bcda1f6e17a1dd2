"""The place at which a crash trigger is expected is what the kernel of the guest can print."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from harness.core.architecture_table import ARCHITECTURES
from harness.guest.guest import Guest
from harness.verdict.crash_triggers import QUICK, CrashModule


@pytest.mark.parametrize(
    ("arch", "config", "place"),
    [
        ("mips64el", {"CONFIG_GENERIC_BUG": "y"}, "probes/crash/faults.c"),
        ("mips64el", {}, "pinpoint_bug"),
        ("sparc64", {}, "probes/crash/faults.c"),
    ],
    ids=["table of BUGs", "no table", "no table, BUG() prints its place"],
)
def test_a_kernel_whose_bug_prints_no_file_names_the_function(arch: str, config: dict[str, str], place: str) -> None:
    crash = object.__new__(CrashModule)
    image = SimpleNamespace(config=config)
    crash.guest = cast(Guest, SimpleNamespace(image=image, architecture=ARCHITECTURES[arch]))
    crash._possible = ["bug", "null_read"]
    expected = {each.name: each.expected_place for each in crash.detectable_triggers(QUICK)}
    assert expected == {"bug": place, "null_read": "pinpoint_null_read"}
