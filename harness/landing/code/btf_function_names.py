"""The names of the functions in a kernel's BTF, which pahole wrote from the compiler's debug information.

BTF has no addresses, so it confirms only that a function has a name (Documentation/bpf/btf.rst, 6.1).
"""

from __future__ import annotations

import re
import struct

from harness.core.elf import Elf

_SECTION, _FLAT = ".BTF", ".rodata"
# struct btf_header: magic, version 1, flags 0, and a header of 24 bytes.
_HEADER = struct.Struct("<HBBIIIII")
_START = re.compile(b"\x9f\xeb\x01\x00\x18\x00\x00\x00\x00\x00\x00\x00")
_TYPE = struct.Struct("<III")
_FUNC = 12
# The bytes that follow a type of each kind, fixed and for each of its members.
_EXTRA: dict[int, tuple[int, int]] = {
    1: (4, 0),  # INT
    3: (12, 0),  # ARRAY
    4: (0, 12),  # STRUCT
    5: (0, 12),  # UNION
    6: (0, 8),  # ENUM
    13: (0, 8),  # FUNC_PROTO
    14: (4, 0),  # VAR
    15: (0, 12),  # DATASEC
    17: (4, 0),  # DECL_TAG
    19: (0, 12),  # ENUM64
}


def btf_function_names(vmlinux: Elf) -> frozenset[str]:
    """The function names in the BTF of a vmlinux; empty if it has none, or if it is damaged or big-endian."""
    name = _SECTION if _SECTION in vmlinux.sections_by_name else _FLAT
    if name not in vmlinux.sections_by_name:
        return frozenset()
    content = vmlinux.section_bytes(name, 0, vmlinux.sections_by_name[name].size)
    found = _START.search(content)
    return function_names(content[found.start() :]) if found else frozenset()


def function_names(btf: bytes) -> frozenset[str]:
    """The function names in BTF content that begins with its header; empty for damaged content."""
    try:
        _, _, _, head, types_at, types_size, strings_at, strings_size = _HEADER.unpack_from(btf)
    except struct.error:
        return frozenset()
    types = btf[head + types_at : head + types_at + types_size]
    strings = btf[head + strings_at : head + strings_at + strings_size]
    found = set()
    place = 0
    while place + _TYPE.size <= len(types):
        name, info, _ = _TYPE.unpack_from(types, place)
        kind, members = info >> 24 & 0x1F, info & 0xFFFF
        fixed, each = _EXTRA.get(kind, (0, 0))
        if kind == _FUNC:
            found.add(strings[name : strings.find(b"\0", name)].decode(errors="replace"))
        place += _TYPE.size + fixed + members * each
    return frozenset(found)
