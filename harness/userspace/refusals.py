"""Requests for uprobes that the kernel must refuse: with which errno, and that nothing is left behind."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass

from harness.landing.landing import Missed
from harness.userspace.probe_run import Uprobes
from harness.userspace.user_file import UserFile
from harness.userspace.ways import EVENTS, ByTracefs, Request

_PAGE = 4096


@dataclass(frozen=True)
class RefusedRequest:
    """A request that the kernel refuses with `errno`; 0 if the kernel accepts it although it can never be hit."""

    what: str
    request: Callable[[UserFile], Request]
    errno: int


def _past(file: UserFile) -> int:
    return -(-len(file.content) // _PAGE) * _PAGE + _PAGE


def _data(file: UserFile) -> int:
    return file.elf.sections[".data"].offset


# From register_for_each_vma() and uprobe_register(), kernel/events/uprobes.c (6.1), and trace_uprobe_create().
BAD = (
    RefusedRequest("past the end of the file", lambda file: Request(file.path, [_past(file)]), errno.EINVAL),
    RefusedRequest("a file of a file system without pages", lambda _: Request("/proc/version", [0]), errno.EIO),
    RefusedRequest("a directory", lambda _: Request("/tmp", [0]), errno.EINVAL),
    RefusedRequest("a file that is not there", lambda _: Request("/tmp/pinpoint_absent", [0]), errno.ENOENT),
    RefusedRequest("writable data", lambda file: Request(file.path, [_data(file)]), 0),
)


def expect_refused(uprobes: Uprobes, file: UserFile, bad: RefusedRequest) -> None:
    """Send the request through tracefs. Raises Missed when the errno is another, or anything is left behind."""
    request = bad.request(file)
    if uprobes.mutant.good_request:
        request = Request(file.path, [file.offset(file.site("pinpoint_one_leaf"))] if bad.errno else [_past(file)])
    way = ByTracefs(uprobes.guest)
    try:
        returned = way.register(request)[0].errno
    finally:
        way.remove()
    if returned != bad.errno:
        raise Missed(f"{bad.what}: the kernel returned errno {returned}, not {bad.errno}")
    left = uprobes.guest.read_text(EVENTS)
    if left:
        raise Missed(f"{bad.what}: left in uprobe_events: {left}")
