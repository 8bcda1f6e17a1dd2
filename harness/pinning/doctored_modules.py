"""Makes module files with one change, which a kernel or a validator must distinguish from the original."""

from __future__ import annotations

import struct
from collections.abc import Collection

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from harness.core.elf import Elf
from harness.guest.guest import Guest

_NOTE = ".note.gnu.build-id"
_NOTE_HEADER = 16
# The offset of e_machine in an ELF header of either word size.
_MACHINE = 18
# SHF_WRITE.
_WRITE = 1
_TWINS = (".text.pinpoint_leaf", ".text.pinpoint_calls")


def copy_to_guest(guest: Guest, name: str, content: bytes) -> str:
    """Copy the content of a module file into the guest; returns its path there."""
    path = f"/tmp/{name}.ko"
    guest.put(content, path)
    return path


def with_another_build_id(elf: Elf) -> bytes:
    """The same module with another build-id; all addresses stay the same."""
    section = elf.sections_by_name[_NOTE]
    note = elf.section_bytes(_NOTE, 0, section.size)
    return _replaced(elf, note, note[:_NOTE_HEADER] + bytes(0xFF ^ byte for byte in note[_NOTE_HEADER:]))


def for_another_kernel(elf: Elf) -> bytes:
    """The same module with a word changed in its vermagic.

    The release is not changed, because a kernel with CONFIG_MODVERSIONS ignores it (same_magic(),
    kernel/module/version.c, 6.1).
    """
    return _replaced(elf, b"mod_unload", b"mod_reload")


def for_another_machine(elf: Elf) -> bytes:
    """The same module for a machine that does not exist."""
    content = bytearray(elf.path.read_bytes())
    content[_MACHINE : _MACHINE + 2] = b"\xff\xff"
    return bytes(content)


def with_two_sections_of_one_name(elf: Elf) -> bytes:
    """A module with a section for each function, in which two sections have the same name."""
    content = bytearray(elf.path.read_bytes())
    with elf.path.open("rb") as stream:
        parsed = ELFFile(stream)
        start, size = parsed["e_shoff"], parsed["e_shentsize"]
        first, second = (start + size * parsed.get_section_index(name) for name in _TWINS)
    # A section header begins with the offset of its name, which has four bytes in either class.
    content[second : second + 4] = content[first : first + 4]
    return bytes(content)


def with_writable_text(elf: Elf) -> bytes:
    """A module whose text is writable as well as executable."""
    content = bytearray(elf.path.read_bytes())
    with elf.path.open("rb") as stream:
        parsed = ELFFile(stream)
        number = next(number for number, part in enumerate(parsed.iter_sections()) if part.name == ".text")
        header = parsed["e_shoff"] + parsed["e_shentsize"] * number
        flags = parsed.get_section(number)["sh_flags"]
        # In either class, name and type precede the flags and have four bytes each; the flags have the class's word
        # size.
        place, form = header + 8, _word(parsed)
    content[place : place + form.size] = form.pack(flags | _WRITE)
    return bytes(content)


def with_larger_sections(elf: Elf, names: Collection[str], more: int) -> bytes:
    """The same module with this many zeros after the content of each section. The content moves to the file's end."""
    content = bytearray(elf.path.read_bytes())
    with elf.path.open("rb") as stream:
        parsed = ELFFile(stream)
        form = _word(parsed)
        for name in names:
            number = next(number for number, part in enumerate(parsed.iter_sections()) if part.name == name)
            section = parsed.get_section(number)
            header = parsed["e_shoff"] + parsed["e_shentsize"] * number
            # Name and type have four bytes each; flags, address, offset and size follow, each of the class's word size.
            offset, size = (header + 8 + field * form.size for field in (2, 3))
            if section["sh_type"] != "SHT_NOBITS":
                content += bytes(-len(content) % max(section["sh_addralign"], 1))
                content[offset : offset + form.size] = form.pack(len(content))
                content += section.data() + bytes(more)
            content[size : size + form.size] = form.pack(section["sh_size"] + more)
    return bytes(content)


def with_a_symbol_of_no_section(elf: Elf, function: str) -> bytes:
    """A module with a function of this name whose section number is larger than that of the last section."""
    content = bytearray(elf.path.read_bytes())
    with elf.path.open("rb") as stream:
        parsed = ELFFile(stream)
        table = next(part for part in parsed.iter_sections() if isinstance(part, SymbolTableSection))
        number = [symbol.name for symbol in table.iter_symbols()].index(function)
        # In 64-bit files the section number precedes value and size; in 32-bit files it is the last field.
        within = 6 if parsed.elfclass == 64 else 14
        place = table["sh_offset"] + number * table["sh_entsize"] + within
        order = "little" if parsed.little_endian else "big"
        content[place : place + 2] = (parsed["e_shnum"] + 1).to_bytes(2, order)
    return bytes(content)


def _word(parsed: ELFFile) -> struct.Struct:
    return struct.Struct(f"{'<' if parsed.little_endian else '>'}{'Q' if parsed.elfclass == 64 else 'I'}")


def truncated(elf: Elf) -> bytes:
    """The first half of a module's file."""
    content = elf.path.read_bytes()
    return content[: len(content) // 2]


def _replaced(elf: Elf, old: bytes, new: bytes) -> bytes:
    """The file's content with `old`, which must occur exactly once, replaced by `new` of the same length."""
    content = elf.path.read_bytes()
    if content.count(old) != 1 or len(new) != len(old):
        raise ValueError(f"{elf.path.name} has {content.count(old)} times {old!r}, not once")
    return content.replace(old, new)
