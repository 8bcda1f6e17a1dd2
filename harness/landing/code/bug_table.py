"""The places of the traps of BUG() and WARN() in a vmlinux."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from harness.core.elf import Elf

_BUGS = ("__start___bug_table", "__stop___bug_table")


def linked_bug_addresses(kernel: Elf, config: Mapping[str, str]) -> list[int]:
    """The link addresses of the traps; empty if the file has no such table.

    A row of the table begins with the place of the trap, as a distance from the row or as an address (struct bug_entry,
    include/asm-generic/bug.h, 6.1).
    """
    first, last = (kernel.symbols_named(name) for name in _BUGS)
    if not (first and last):
        return []
    relative = config.get("CONFIG_GENERIC_BUG_RELATIVE_POINTERS") == "y"
    verbose = config.get("CONFIG_DEBUG_BUGVERBOSE") == "y"
    row = ("iiHH" if verbose else "iH2x") if relative else ("IIHH" if verbose else "IH2x")
    start, order = first[0].address, kernel.struct_order
    form = struct.Struct(f"{order}{row}")
    content = kernel.bytes_at(start, last[0].address - start)
    rows = enumerate(form.iter_unpack(content[: len(content) // form.size * form.size]))
    return [place + (start + index * form.size if relative else 0) for index, (place, *_) in rows]
