"""Uprobes are judged by the memory of the processes that map their file."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.guest.result import Result
from harness.landing.verify.judged import JudgedProbe, ProbeVerdict
from harness.landing.verify.registrations import UprobeRegistration
from harness.landing.verify.uprobe_judge import MappedSite, judge_uprobes, sites_in_processes, verdict_of_sites

CALL = UprobeRegistration(5, 0, "254:0", 77, 0x4DD0, "busybox", "sh")
MAPS = """\
/proc/1/maps:00400000-00404000 r-xp 00004000 fe:00 77                       /bin/busy box
/proc/1/maps:00404000-00408000 r-xp 00008000 fe:00 77                       /bin/busy box
/proc/9/maps:7f0000004000-7f0000008000 r-xp 00004000 fe:00 77 /bin/busybox
/proc/9/maps:7f1000004000-7f1000008000 r-xp 00004000 fe:00 770 /bin/other
/proc/9/maps:7f2000004000-7f2000008000 r-xp 00004000 00:02 77 /bin/other
/proc/9/maps:7ffd2000-7ffd3000 r-xp 00000000 00:00 0                          [vdso]
"""
FIRST = MappedSite(1, 0x400DD0, "/proc/1/map_files/400000-404000")
SECOND = MappedSite(9, 0x7F0000004DD0, "/proc/9/map_files/7f0000004000-7f0000008000")


def test_a_site_is_found_in_each_process_that_maps_it() -> None:
    """Device and inode decide, not the name."""
    assert sites_in_processes(MAPS, CALL) == [FIRST, SECOND]


def site(memory: str, own: str = "55488bec") -> MappedSite:
    return MappedSite(1, 0x400DD0, "", bytes.fromhex(memory), bytes.fromhex(own))


@pytest.mark.parametrize(
    ("sites", "verdict", "words"),
    [
        ([site("cc488bec")], ProbeVerdict.LANDED, "in 1 of 1 processes"),
        ([site("55488bec"), site("cc488bec")], ProbeVerdict.LANDED, "in 1 of 2 processes"),
        ([site("cc48cccc")], ProbeVerdict.LANDED, "in 1 of 1 processes"),
        ([site("90488bec")], ProbeVerdict.MISSED, "neither the file's bytes there nor a breakpoint"),
        ([site("55cc8bec")], ProbeVerdict.NOT_JUDGED, "none has a breakpoint there"),
        ([site("cccccccc", "cccccccc")], ProbeVerdict.NOT_JUDGED, "the file itself has a breakpoint"),
        ([site("", "55488bec")], ProbeVerdict.NOT_JUDGED, "no process maps the file"),
        ([], ProbeVerdict.NOT_JUDGED, "no process maps the file"),
    ],
)
def test_memory_decides(sites: list[MappedSite], verdict: ProbeVerdict, words: str) -> None:
    judged = verdict_of_sites(JudgedProbe(CALL.asked, "uprobe", ProbeVerdict.NOT_JUDGED), sites, b"\xcc")
    assert judged.verdict is verdict
    assert words in judged.verdict_line
    assert (judged.address is not None) == bool(judged.memory_change)


def test_an_architecture_without_uprobes_is_named() -> None:
    judged = verdict_of_sites(JudgedProbe("f:0x1", "uprobe", ProbeVerdict.NOT_JUDGED), [site("cc")], b"")
    assert (judged.verdict, "not in the table" in judged.reason) == (ProbeVerdict.NOT_JUDGED, True)


class Answering:
    """A guest that answers scripts in order."""

    name = "vm"
    architecture = SimpleNamespace(kprobe_traits=SimpleNamespace(uprobe_breakpoint=b"\xcc"))

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.scripts: list[str] = []

    def run_script(self, script: str) -> Result:
        self.scripts.append(script)
        return Result("vm", (), 0, self.answers.pop(0).encode(), b"", 0.0)


def test_the_bytes_are_read_in_the_process_and_in_its_file() -> None:
    """A process that ends meanwhile has no bytes."""
    guest = Answering(MAPS, "memory\nfile\nmemory  cc 48 8b ec\nfile  55 48 8b ec\n")
    (judged,) = judge_uprobes(cast(Guest, guest), [CALL])
    assert (judged.verdict, judged.address, judged.owner) == (ProbeVerdict.LANDED, SECOND.address, "sh")
    assert judged.memory_change == "55488bec became cc488bec"
    assert f"dd if=/proc/9/mem bs=1 skip={SECOND.address} count=4" in guest.scripts[1]
    assert f"dd if={SECOND.file} bs=1 skip={CALL.offset} count=4" in guest.scripts[1]


def test_other_output_is_one_line() -> None:
    with pytest.raises(GuestError):
        judge_uprobes(cast(Guest, Answering(MAPS, "memory zz\nfile\n")), [CALL])
    with pytest.raises(GuestError):
        judge_uprobes(cast(Guest, Answering(MAPS, "memory\n")), [CALL])
    assert judge_uprobes(cast(Guest, Answering()), []) == []
