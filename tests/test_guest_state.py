"""The changes that a cell made in its guest are computed from two listings."""

from __future__ import annotations

import pytest

from harness.images.vm_recipe import load_all
from harness.matrix.guests.check_after_cell import may_leave_ftrace_calls
from harness.matrix.guests.guest_state import GuestState

BEFORE = """\
/proc/modules:virtio_net 61440 0 - Live 0xffffffffc0000000
/proc/modules:failover 16384 1 virtio_net, Live 0xffffffffc0010000
/sys/kernel/debug/kprobes/list:00010000  k  __kretprobe_trampoline+0x0
/proc/mounts:tmpfs /tmp tmpfs rw,relatime 0 0
/proc/sys/kernel/tainted:4096
/proc/meminfo:MemTotal:        486452 kB
/proc/meminfo:Slab:             15472 kB
/proc/1/cmdline:init
/proc/80/cmdline:dropbear\0-E
/proc/81/cmdline:sh
"""
TARGET = "/proc/modules:pinpoint_target 16384 0 - Live 0xffffffffc0020000 (OE)\n"


def changed(after: str, *kept: str) -> list[str]:
    return GuestState.parse_listing(BEFORE).list_changes(GuestState.parse_listing(after), kept)


def test_nothing_changed() -> None:
    assert changed(BEFORE) == []
    assert changed(BEFORE.replace("0xffffffffc0000000", "0x1")) == []


@pytest.mark.parametrize(
    ("more", "reported"),
    [
        (TARGET, "module pinpoint_target"),
        (TARGET.replace(" 0 - ", " 2 - "), "module pinpoint_target with 2 references"),
        ("/sys/kernel/debug/kprobes/list:00c0ffee  k  leaf+0x0\n", "kprobe 00c0ffee  k  leaf+0x0"),
        ("/proc/mounts:none /mnt tmpfs rw 0 0\n", "mount none on /mnt"),
        ("/proc/97/cmdline:/tmp/pinpoint_loader\0-w\n", "process /tmp/pinpoint_loader"),
        ("/proc/97/cmdline:sh\n", "process sh"),
    ],
)
def test_what_is_left_behind_is_named(more: str, reported: str) -> None:
    assert changed(BEFORE + more) == [reported]


def test_what_was_taken_away_is_named_but_for_processes() -> None:
    less = "".join(line for line in BEFORE.splitlines(keepends=True) if "/tmp" not in line and "cmdline:sh" not in line)
    assert changed(less) == ["no mount tmpfs on /tmp"]


def test_a_reference_that_was_taken_is_a_change() -> None:
    held = BEFORE.replace("virtio_net 61440 0", "virtio_net 61440 1")
    assert changed(held) == ["module virtio_net with 1 references", "no module virtio_net"]


def test_a_kept_target_is_expected_and_unreferenced() -> None:
    assert changed(BEFORE + TARGET, "pinpoint_target") == []
    assert changed(BEFORE, "pinpoint_target") == ["no module pinpoint_target"]
    assert "module pinpoint_target with 1 references" in changed(
        BEFORE + TARGET.replace(" 0 - ", " 1 - "), "pinpoint_target"
    )


def worn(before: str, after: str) -> str:
    return GuestState.parse_listing(before).discard_reason(GuestState.parse_listing(after), 512)


def test_taints_of_our_own_modules_are_none() -> None:
    clean = BEFORE.replace(":4096", ":0")
    assert worn(clean, BEFORE.replace(":4096", f":{1 << 12 | 1 << 13}")) == ""
    assert worn(clean, BEFORE.replace(":4096", f":{1 << 12 | 1 << 9 | 1 << 3}")) == "taint RW"
    assert worn(BEFORE.replace(":4096", ":8"), BEFORE.replace(":4096", ":8")) == ""


def test_slab_that_grew_by_an_eighth_of_memory_is_reported() -> None:
    assert worn(BEFORE, BEFORE.replace("15472", str(15472 + (64 << 10)))) == ""
    assert worn(BEFORE, BEFORE.replace("15472", str(15472 + (65 << 10)))) == "65 MiB more of slab"


def test_a_listing_that_was_cut() -> None:
    with pytest.raises(ValueError, match="tainted"):
        GuestState.parse_listing(BEFORE.partition("/proc/sys")[0])


def test_a_call_that_ftrace_keeps_only_discards_the_guest() -> None:
    left = BEFORE + "/sys/kernel/tracing/enabled_functions:pinpoint_leaf [pinpoint_target] (1) R  \ttramp: 0xc0\n"
    assert changed(left) == []
    assert worn(BEFORE, left) == "ftrace's call in pinpoint_leaf [pinpoint_target]"
    assert worn(left, left) == ""


def test_a_warning_that_no_complaint_explains_is_counted_although_its_taint_was_set() -> None:
    before = GuestState.parse_listing(BEFORE + "/sys/kernel/warn_count:1\n/sys/kernel/oops_count:0\n")
    warned = GuestState.parse_listing(BEFORE + "/sys/kernel/warn_count:3\n/sys/kernel/oops_count:1\n")
    assert before.unexplained_crashes(before, 0) == ""
    assert before.unexplained_crashes(warned, 2) == "1 more in oops_count, 2 more in warn_count"
    assert before.unexplained_crashes(warned, 3) == ""


def test_taint_is_explained_by_a_complaint() -> None:
    clean, tainted = (GuestState.parse_listing(BEFORE.replace(":4096", f":{taint}")) for taint in (0, 1 << 9))
    assert clean.unexplained_crashes(tainted, 0) == "new taint W"
    assert clean.unexplained_crashes(tainted, 1) == ""


@pytest.mark.parametrize(
    ("name", "source", "read"),
    [
        ("x86_64-debian", "", False),
        ("x86_64-debian-5.10", "", True),
        ("x86_64-debian", "tree", True),
        ("x86_64-debian", "given", True),
        ("arm64-debian", "given", False),
    ],
)
def test_calls_of_ftrace_are_looked_for_where_a_kernel_may_leave_them(name: str, source: str, read: bool) -> None:
    recipe = load_all()[name]
    kernel = recipe.kernel.model_copy(update={"source": source or recipe.kernel.source})
    assert may_leave_ftrace_calls(recipe.model_copy(update={"kernel": kernel})) is read
