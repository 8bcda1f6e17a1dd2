"""Judges uprobes: what was asked for, and the memory of the processes that map the file, against the file's bytes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.guest.guest import Guest
from harness.guest.result import parsing_guest_text
from harness.landing.verify.judged import JudgedProbe, ProbeVerdict
from harness.landing.verify.registrations import UprobeRegistration

# /proc/PID/maps: start-end, permissions, offset, device in hexadecimal, inode, path.
_MAPPED = re.compile(
    r"/proc/(?P<pid>\d+)/maps:(?P<start>[0-9a-f]+)-(?P<end>[0-9a-f]+) ..x. (?P<offset>[0-9a-f]+) "
    r"(?P<major>[0-9a-f]+):(?P<minor>[0-9a-f]+) (?P<inode>\d+)"
)
# Each read starts a program, which takes an emulated guest 20 ms.
_MOST_PROCESSES = 16
_SHOWN = 8


@dataclass(frozen=True)
class MappedSite:
    """The address of a uprobe's site in one process, its bytes there, and the file's; both are empty if unreadable.

    `file` is the path by which the guest reads the file that the process maps.
    """

    pid: int
    address: int
    file: str
    memory: bytes = b""
    own: bytes = b""


def judge_uprobes(guest: Guest, calls: Sequence[UprobeRegistration]) -> list[JudgedProbe]:
    """The verdicts on uprobes that were registered. Raises what the guest raises."""
    if not calls:
        return []
    listing = guest.run_script("grep -sH ' ..x. ' /proc/[0-9]*/maps; true").stdout
    return [_judged(guest, call, sites_in_processes(listing, call)) for call in calls]


@parsing_guest_text("the mappings of its processes")
def sites_in_processes(listing: str, call: UprobeRegistration) -> list[MappedSite]:
    """Where processes map the site of a uprobe, from the lines of /proc/PID/maps with their paths."""
    found = []
    for line in listing.splitlines():
        mapped = _MAPPED.match(line)
        if not mapped or int(mapped["inode"]) != call.inode:
            continue
        start, end, offset = (int(mapped[name], 16) for name in ("start", "end", "offset"))
        device = f"{int(mapped['major'], 16)}:{int(mapped['minor'], 16)}"
        if device == call.device and offset <= call.offset < offset + end - start:
            file = f"/proc/{mapped['pid']}/map_files/{start:x}-{end:x}"
            found.append(MappedSite(int(mapped["pid"]), start + call.offset - offset, file))
    return found


def _judged(guest: Guest, call: UprobeRegistration, sites: Sequence[MappedSite]) -> JudgedProbe:
    breakpoint_ = guest.architecture.kprobe_traits.uprobe_breakpoint
    judged = JudgedProbe(call.asked, "uprobe", ProbeVerdict.NOT_JUDGED, owner=call.command)
    if not breakpoint_:
        return verdict_of_sites(judged, [], breakpoint_)
    return verdict_of_sites(judged, _read(guest, call, sites[:_MOST_PROCESSES]), breakpoint_)


def verdict_of_sites(judged: JudgedProbe, sites: Sequence[MappedSite], breakpoint_: bytes) -> JudgedProbe:
    """The verdict of memory; `judged` has what was asked for. A uprobe may be for some processes alone."""
    read = [each for each in sites if each.memory and each.own]
    probed = [each for each in read if each.memory.startswith(breakpoint_)]
    # Another uprobe may be in the bytes that follow.
    size = len(breakpoint_)
    strange = [each for each in read if each.memory[:size] != each.own[:size] and each not in probed]
    reason, verdict, shown = "", ProbeVerdict.NOT_JUDGED, None
    if not breakpoint_:
        reason = "how this architecture's uprobes look in memory is not in the table"
    elif not read:
        reason = "no process maps the file: memory shows nothing; let one run meanwhile"
    elif strange:
        verdict, shown = ProbeVerdict.MISSED, strange[0]
        reason = f"process {shown.pid} has neither the file's bytes there nor a breakpoint"
    elif not probed:
        reason = (
            f"{len(read)} processes map the file, and none has a breakpoint there: it is for others, or was removed"
        )
    elif any(each.own.startswith(breakpoint_) for each in probed):
        reason = "the file itself has a breakpoint there"
    else:
        verdict, shown = ProbeVerdict.LANDED, probed[0]
    notes = (f"in {len(probed)} of {len(read)} processes that map the file",) if probed else ()
    memory = f"{shown.own.hex()} became {shown.memory.hex()}" if shown else ""
    return JudgedProbe(
        judged.asked,
        judged.kind,
        verdict,
        shown.address if shown else None,
        memory_change=memory,
        owner=judged.owner,
        reason=reason,
        notes=notes,
    )


def _read(guest: Guest, call: UprobeRegistration, sites: Sequence[MappedSite]) -> list[MappedSite]:
    """Read the bytes of each site in its process, and those of the file that the process maps there."""
    if not sites:
        return []
    size = max(_SHOWN // 2, len(guest.architecture.kprobe_traits.uprobe_breakpoint))
    steps = [
        f"echo {kind} {_dumped(path, place, size)}"
        for each in sites
        for kind, path, place in (
            ("memory", f"/proc/{each.pid}/mem", each.address),
            ("file", each.file, call.offset),
        )
    ]
    return _bytes_of_sites(guest.run_script("\n".join([*steps, "true"])).stdout, sites)


def _dumped(path: str, offset: int, size: int) -> str:
    return f"$(dd if={path} bs=1 skip={offset} count={size} 2>/dev/null | od -An -v -tx1)"


@parsing_guest_text("the bytes of a uprobe's site")
def _bytes_of_sites(listing: str, sites: Sequence[MappedSite]) -> list[MappedSite]:
    found = {"memory": list[bytes](), "file": list[bytes]()}
    for line in listing.splitlines():
        kind, *words = line.split()
        found[kind].append(bytes.fromhex("".join(words)))
    return [
        replace(each, memory=memory, own=own)
        for each, memory, own in zip(sites, found["memory"], found["file"], strict=True)
    ]
