"""The witnesses of a uprobe's landing in one process: each is an independent source of an offset into the file.

| witness | source |
|---|---|
| registered | the kernel's report on the registration: uprobe_events, or the answer of the module or of perf |
| elf | symbol table and segments of the file |
| resolved | the process's own pointer to the function, which ld.so relocated, minus the address of the mapping |
| trapped | the instruction pointer of a hit, minus the address of the mapping |
| inside | the process's pages by /proc/PID/mem: where they differ from the file |
| outside | the same pages by their physical addresses, through QEMU |
| tree | the kernel's list of uprobes, by inode and offset, walked through QEMU |
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from harness.landing.five_address_witnesses import SHOWN, Statement
from harness.userspace.mapped_pages import FileView, Page
from harness.userspace.ways import Hit, OffsetRegistrationResult


@dataclass(frozen=True)
class BreakpointEncoding:
    """The bytes that a uprobe writes on an architecture, and the alignment of an instruction there, in bytes."""

    code: bytes
    alignment: int


def registered_statement(result: OffsetRegistrationResult) -> Statement:
    """The offset that the kernel reports as probed."""
    if result.errno:
        return Statement("registered", None, f"refused, errno {result.errno}")
    return Statement("registered", result.offset)


def process_pointer_statement(address: int | None, view: FileView) -> Statement:
    """The process's own pointer, as an offset into the file; no offset if the process was not queried."""
    if address is None:
        return Statement("resolved", None, "the process was not queried")
    offset = view.file_offset(address)
    if offset is None:
        return Statement("resolved", None, f"{address:#x} is outside of the file's mappings", contradicts=True)
    return Statement("resolved", offset, f"address {address:#x}")


def hit_address_statement(hits: Iterable[Hit], view: FileView) -> Statement:
    """The instruction pointer at the last hit, as the kernel moved it back, as an offset into the file."""
    last = next(reversed(list(hits)), None)
    if last is None:
        return Statement("trapped", None, "not hit")
    offset = view.file_offset(last.address)
    if offset is None:
        return Statement("trapped", None, f"ip {last.address:#x} is outside of the file's mappings", contradicts=True)
    return Statement("trapped", offset, f"ip {last.address:#x}")


def tree_statement(probed: Mapping[int, int], near: int, expected: Collection[int], consumers: int = 1) -> Statement:
    """What the kernel's list has of the file: `probed` maps its offsets to the number of their consumers.

    It contradicts when the site is not listed, has another number of consumers than `consumers`, and when anything else
    of the file is listed that no site explains.
    """
    if near not in probed:
        closest = min(probed, key=lambda offset: abs(offset - near), default=None)
        return Statement("tree", closest, f"{len(probed)} offsets of the file are listed", contradicts=closest is None)
    if probed[near] != consumers:
        return Statement(
            "tree", near, f"{probed[near]} consumers are registered there, not {consumers}", contradicts=True
        )
    strays = set(probed) - set(expected)
    if strays:
        listed = ", ".join(f"{stray:#x}" for stray in sorted(strays))
        return Statement("tree", near, f"also listed, and no site: {listed}", contradicts=True)
    return Statement("tree", near, f"consumers: {consumers}; {len(probed)} offsets of the file are listed")


def proc_memory_statement(
    view: FileView, content: bytes, near: int, breakpoint_: BreakpointEncoding, expected: Collection[int]
) -> Statement:
    """The offset at which the process's pages, read through /proc/PID/mem, differ from the file."""
    return _memory("inside", view, lambda page: page.bytes_inside, content, near, breakpoint_, expected)


def qemu_memory_statement(
    view: FileView, content: bytes, near: int, breakpoint_: BreakpointEncoding, expected: Collection[int]
) -> Statement:
    """The offset at which the process's physical pages, read through QEMU, differ from the file.

    The changed page must be a private copy of the process, else the statement contradicts.
    """
    shared = [page for page in view.pages if not page.is_private_copy and _holds(page, near)]
    statement = _memory("outside", view, lambda page: page.bytes_outside, content, near, breakpoint_, expected)
    if shared and statement.address is not None:
        detail = "the changed page is in the page cache, not a private copy"
        return Statement("outside", statement.address, detail, contradicts=True)
    return statement


def _holds(page: Page, offset: int) -> bool:
    return page.offset <= offset < page.offset + max(len(page.bytes_inside), 1)


def _memory(
    witness: str,
    view: FileView,
    read: Callable[[Page], bytes],
    content: bytes,
    near: int,
    breakpoint_: BreakpointEncoding,
    expected: Collection[int],
) -> Statement:
    """State where memory differs from the file; contradict if nothing changed or a change is no expected breakpoint."""
    pages = [page for page in view.pages if read(page)]
    if not any(_holds(page, near) for page in pages):
        return Statement(witness, None, f"the page of file offset {near:#x} could not be read")
    found = {
        place for page in pages for place in offsets_differing_from_file(read(page), content, page.offset, breakpoint_)
    }
    if not found:
        return Statement(witness, None, "every byte equals the file", contradicts=True)
    closest = min(found, key=lambda place: abs(place - near))
    spared = [page.address for page in pages if _holds(page, closest) and not _changed(page, read, closest, content)]
    if spared:
        denial = f"the mapping at {spared[0]:#x} shows the file's bytes, another one does not"
        return Statement(witness, closest, denial, contradicts=True)
    for place in sorted(found):
        now = _bytes(pages, read, place)
        if not now.startswith(breakpoint_.code):
            detail = f"{content[place : place + SHOWN].hex()} became {now.hex()} at {place:#x}, no uprobe"
            return Statement(witness, closest, detail, contradicts=True, code=now)
    strays = found - set(expected)
    if closest == near and strays:
        detail = f"breakpoints that no probe explains at {', '.join(f'{stray:#x}' for stray in sorted(strays))}"
        return Statement(witness, closest, detail, contradicts=True)
    was = content[closest : closest + len(breakpoint_.code)].hex()
    compared = sum(len(read(page)) for page in pages)
    detail = f"{was} became {breakpoint_.code.hex()}; {compared} bytes around it equal the file"
    return Statement(witness, closest, detail, code=_bytes(pages, read, closest))


def _changed(page: Page, read: Callable[[Page], bytes], place: int, content: bytes) -> bool:
    memory = read(page)
    return memory[place - page.offset :][:SHOWN] != content[place : min(place + SHOWN, page.offset + len(memory))]


def _bytes(pages: Iterable[Page], read: Callable[[Page], bytes], place: int) -> bytes:
    for page in pages:
        if page.offset <= place < page.offset + len(read(page)):
            return read(page)[place - page.offset :][:SHOWN]
    return b""


def offsets_differing_from_file(
    memory: bytes, content: bytes, offset: int, breakpoint_: BreakpointEncoding
) -> list[int]:
    """The offsets into the file at which a page differs from it.

    Each run of changed bytes counts once, at the offset where its instruction begins.
    """
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
