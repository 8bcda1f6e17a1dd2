"""The witnesses of a uprobe's landing in one process, each an independent source of one offset into the file.

| witness | source |
|---|---|
| registered | what the kernel reports of the registration: uprobe_events, the module's or perf's answer |
| elf | symbol table and segments of the file |
| resolved | the process's own pointer to the function, which ld.so relocated, less where the file is mapped |
| trapped | the instruction pointer of a hit, less where the file is mapped |
| inside | the process's pages by /proc/PID/mem: where they differ from the file |
| outside | the same pages by their physical addresses, through QEMU |
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from harness.landing.witness import SHOWN, Statement
from harness.userspace.mappings import Page, View
from harness.userspace.ways import Hit, Registered


@dataclass(frozen=True)
class Breakpoint:
    """What a uprobe writes on this architecture, and what its address is a multiple of."""

    code: bytes
    alignment: int


def registered(told: Registered) -> Statement:
    """The offset that the kernel reports as probed."""
    if told.errno:
        return Statement("registered", None, f"refused, errno {told.errno}")
    return Statement("registered", told.offset)


def resolved(address: int | None, view: View) -> Statement:
    """The process's own pointer, as an offset into the file; it cannot speak where nobody asked the process."""
    if address is None:
        return Statement("resolved", None, "the process was not asked")
    offset = view.file_offset(address)
    if offset is None:
        return Statement("resolved", None, f"{address:#x} shows nothing of this file", contradicts=True)
    return Statement("resolved", offset, f"address {address:#x}")


def trapped(hits: Iterable[Hit], view: View) -> Statement:
    """The instruction pointer at the last hit, moved back by the kernel, as an offset into the file."""
    last = next(reversed(list(hits)), None)
    if last is None:
        return Statement("trapped", None, "not hit")
    offset = view.file_offset(last.address)
    if offset is None:
        return Statement("trapped", None, f"ip {last.address:#x} is outside of the file's mappings", contradicts=True)
    return Statement("trapped", offset, f"ip {last.address:#x}")


def inside(view: View, content: bytes, near: int, breakpoint_: Breakpoint, expected: Collection[int]) -> Statement:
    """Where the process's own pages, read by /proc/PID/mem, differ from the file."""
    return _memory("inside", view, lambda page: page.inside, content, near, breakpoint_, expected)


def outside(view: View, content: bytes, near: int, breakpoint_: Breakpoint, expected: Collection[int]) -> Statement:
    """Where the process's physical pages, read through QEMU, differ from the file. They must be its private copies."""
    shared = [page for page in view.pages if not page.private and _holds(page, near)]
    said = _memory("outside", view, lambda page: page.outside, content, near, breakpoint_, expected)
    if shared and said.address is not None:
        return Statement("outside", said.address, "the page is the page cache's own, not a copy", contradicts=True)
    return said


def _holds(page: Page, offset: int) -> bool:
    return page.offset <= offset < page.offset + max(len(page.inside), 1)


def _memory(
    witness: str,
    view: View,
    read: Callable[[Page], bytes],
    content: bytes,
    near: int,
    breakpoint_: Breakpoint,
    expected: Collection[int],
) -> Statement:
    """It contradicts when no byte changed, and when a change is no expected breakpoint."""
    pages = [page for page in view.pages if read(page)]
    if not any(_holds(page, near) for page in pages):
        return Statement(witness, None, f"no page that shows {near:#x} could be read")
    found = {place for page in pages for place in changes(read(page), content, page.offset, breakpoint_)}
    if not found:
        return Statement(witness, None, "every byte is the file's", contradicts=True)
    closest = min(found, key=lambda place: abs(place - near))
    for place in sorted(found):
        now = _bytes(pages, read, place)
        if not now.startswith(breakpoint_.code):
            told = f"{content[place : place + SHOWN].hex()} became {now.hex()} at {place:#x}, no uprobe"
            return Statement(witness, closest, told, contradicts=True, code=now)
    strays = found - set(expected)
    if closest == near and strays:
        told = f"breakpoints that no probe explains at {', '.join(f'{stray:#x}' for stray in sorted(strays))}"
        return Statement(witness, closest, told, contradicts=True)
    was = content[closest : closest + len(breakpoint_.code)].hex()
    compared = sum(len(read(page)) for page in pages)
    told = f"{was} became {breakpoint_.code.hex()}; {compared} bytes around are the file's"
    return Statement(witness, closest, told, code=_bytes(pages, read, closest))


def _bytes(pages: Iterable[Page], read: Callable[[Page], bytes], place: int) -> bytes:
    for page in pages:
        if page.offset <= place < page.offset + len(read(page)):
            return read(page)[place - page.offset :][:SHOWN]
    return b""


def changes(memory: bytes, content: bytes, offset: int, breakpoint_: Breakpoint) -> list[int]:
    """The offsets into the file at which a page differs from it, each stretch once, where its instruction begins."""
    own = content[offset : offset + len(memory)].ljust(len(memory), b"\0")
    if memory == own:
        return []
    found, place = [], 0
    while place < len(memory):
        if memory[place] == own[place]:
            place += 1
            continue
        place -= (offset + place) % breakpoint_.alignment
        found.append(offset + place)
        place += len(breakpoint_.code)
    return found
