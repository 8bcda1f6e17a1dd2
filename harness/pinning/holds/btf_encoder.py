"""Makes BTF for a single function of a module, which is enough for BPF to attach to it.

A module's BTF continues the numbering of vmlinux: its first type follows the last type of vmlinux, and its strings
follow the strings of vmlinux (split BTF, kernel/bpf/btf.c, 6.1).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from harness.core.elf import Elf

FUNCTION = "pinpoint_traced"
_PLACEHOLDER = ".pinpoint_btf"
_MAGIC = 0xEB9F
_FUNC, _FUNC_PROTO = 12, 13
_GLOBAL = 1
_VOID = 0


@dataclass(frozen=True)
class BaseBtfSizes:
    """The BTF of vmlinux: the number of its types, and the bytes of its strings."""

    type_count: int
    strings_size: int

    @property
    def new_function_type_id(self) -> int:
        """The type id of the function; its prototype has the id before, which is the first after vmlinux."""
        return self.type_count + 2


def with_btf_in_placeholder(elf: Elf, base: BaseBtfSizes) -> bytes:
    """`pinpoint_pins` with BTF for `void pinpoint_traced(void)` in its placeholder section."""
    made = encode_function(base, elf.struct_order)
    section = elf.sections_by_name[_PLACEHOLDER]
    if section.size != len(made):
        raise ValueError(f"{_PLACEHOLDER} has {section.size} bytes, not {len(made)}")
    content = elf.path.read_bytes()
    empty = elf.section_bytes(_PLACEHOLDER, 0, section.size)
    named = f"{_PLACEHOLDER}\0".encode()
    for old, new in ((empty, made), (named, b".BTF\0".ljust(len(named), b"\0"))):
        if content.count(old) != 1:
            raise ValueError(f"{elf.path.name} has {content.count(old)} times {old!r}")
        content = content.replace(old, new)
    return content


def encode_function(base: BaseBtfSizes, order: str) -> bytes:
    """BTF that consists of a header, a prototype, a function and the function's name."""
    prototype = struct.pack(f"{order}III", 0, _FUNC_PROTO << 24, _VOID)
    function = struct.pack(f"{order}III", base.strings_size, _FUNC << 24 | _GLOBAL, base.type_count + 1)
    types, strings = prototype + function, f"{FUNCTION}\0".encode()
    header = struct.pack(f"{order}HBBIIIII", _MAGIC, 1, 0, 24, 0, len(types), len(types), len(strings))
    return header + types + strings
