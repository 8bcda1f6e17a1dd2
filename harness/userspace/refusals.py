"""Requests for uprobes that the kernel refuses, and requests on data, which it accepts."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass

from harness.landing.landing_judgment import Missed
from harness.userspace import mapped_pages, uprobes_tree
from harness.userspace.runner import Runner
from harness.userspace.uprobes_fixture import Uprobes
from harness.userspace.user_file import UserFile
from harness.userspace.ways import EVENTS, Request, UprobesByModule, UprobesByPerf, UprobesByTracefs
from harness.userspace.write_process_memory_for_mutants import write_process_memory

_PAGE = 4096


@dataclass(frozen=True)
class RefusedRequest:
    """A request that the kernel refuses with `errno`."""

    description: str
    make_request: Callable[[UserFile], Request]
    errno: int


def _past(file: UserFile) -> int:
    return -(-len(file.content) // _PAGE) * _PAGE + _PAGE


# From register_for_each_vma() and uprobe_register(), kernel/events/uprobes.c (6.1), and trace_uprobe_create().
REFUSED_REQUESTS = (
    RefusedRequest("past the end of the file", lambda file: Request(file.guest_path, [_past(file)]), errno.EINVAL),
    RefusedRequest("a file of a file system without pages", lambda _: Request("/proc/version", [0]), errno.EIO),
    RefusedRequest("a directory", lambda _: Request("/tmp", [0]), errno.EINVAL),
    RefusedRequest("a file that is not there", lambda _: Request("/tmp/pinpoint_absent", [0]), errno.ENOENT),
)


_LEFT = "pinpoint_left/refused"


def expect_refused_by_tracefs(uprobes: Uprobes, file: UserFile, bad: RefusedRequest) -> None:
    """Send the request through tracefs. Raises Missed when the errno is another, or anything is left behind.

    The kernel must list no uprobe at all after the refusal, and no event once the refused one is removed.
    """
    guest, mutant = uprobes.guest, uprobes.mutant
    good = Request(file.guest_path, [file.offset_of_site(file.site("pinpoint_one_leaf"))], own_process_only=True)
    way, other = UprobesByTracefs(guest), UprobesByPerf(guest)
    try:
        returned = way.register_offsets(good if mutant.sends_accepted_request else bad.make_request(file))[0].errno
        if mutant.leaves_idle_uprobe:
            other.register_offsets(good)
        listed = uprobes_tree.read_uprobes_tree(guest, uprobes.struct_types).consumers_by_file
    finally:
        way.remove_and_return_hits()
        other.remove_and_return_hits()
    if returned != bad.errno:
        raise Missed(f"{bad.description}: the kernel returned errno {returned}, not {bad.errno}")
    if listed:
        raise Missed(f"{bad.description}: the kernel refused it, and lists {listed}")
    if mutant.leaves_event:
        guest.run_script(f"echo 'p:{_LEFT} {file.guest_path}:{good.offsets[0]:#x}' >>{EVENTS}").check()
    left = guest.read_text(EVENTS)
    if mutant.leaves_event:
        guest.run_script(f"echo '-:{_LEFT}' >>{EVENTS}").check()
    if left:
        raise Missed(f"{bad.description}: left in uprobe_events: {left}")


def expect_data_uprobe_accepted(uprobes: Uprobes, file: UserFile, name: str, process: Runner) -> None:
    """A uprobe on data that a process has mapped. Raises Missed unless the kernel does with each mapping as it should.

    It registers the uprobe and lists it. It writes no breakpoint where the mapping is writable. It writes one where the
    mapping is not writable, because such a mapping may become executable (valid_vma(), kernel/events/uprobes.c, 6.1).
    """
    guest = uprobes.guest
    offset = file.variable_offset(name)
    breakpoint_ = guest.architecture.kprobe_traits.uprobe_breakpoint
    before = mapped_pages.read_file_view(guest, file, [process.pid], [offset], data_too=True)
    way = UprobesByModule(guest)
    answer = way.register_offsets(
        Request(file.guest_path, [offset], reports_without_registering=uprobes.mutant.reports_without_registering)
    )[0].errno
    try:
        listed = uprobes_tree.read_uprobes_tree(guest, uprobes.struct_types).consumers_by_offset_in_file(
            before.file_identity
        )
        if uprobes.mutant.writes_data:
            write_process_memory(
                guest, process.pid, before.pages[-1].address + offset - before.pages[-1].offset + 8, breakpoint_
            )
        during = mapped_pages.read_file_view(guest, file, [process.pid], [offset], data_too=True)
    finally:
        way.remove_and_return_hits()
    if answer or listed != {offset: 1}:
        raise Missed(f"{name}: errno {answer}, the kernel lists {dict(listed)}, not one uprobe at {offset:#x}")
    # A mapping without access rights, such as the gap between two segments, cannot be read.
    if not any(page.bytes_inside and page.bytes_inside == page.bytes_outside for page in during.pages):
        raise Missed(f"{name}: no mapping of its page could be read, in the guest and from outside")
    for was, now in zip(before.pages, during.pages, strict=True):
        place, wanted = offset - now.offset, was.bytes_inside
        if wanted and "w" not in during.mapping_of_page(now).permissions:
            written = guest.architecture.kprobe_traits.uprobe_breakpoint_over(wanted[place:])
            wanted = wanted[:place] + written + wanted[place + len(written) :]
        if wanted not in (now.bytes_inside, b"") or (now.bytes_inside and now.bytes_inside != now.bytes_outside):
            raise Missed(
                f"{name}: the mapping at {now.address:#x} has {now.bytes_inside[place : place + 16].hex()} there"
            )
    kept = [
        page.bytes_inside
        for page in mapped_pages.read_file_view(guest, file, [process.pid], [offset], data_too=True).pages
    ]
    if kept != [page.bytes_inside for page in before.pages] and not uprobes.mutant.writes_data:
        raise Missed(f"{name}: the process's data is not what it was before")
