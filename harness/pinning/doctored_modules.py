"""Module files changed in one place, which a kernel or a validator must distinguish from the original."""

from __future__ import annotations

import struct

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from harness.core.elf import Elf
from harness.guest.guest import Guest

_NOTE = ".note.gnu.build-id"
_NOTE_HEADER = 16
# Where e_machine stands in an ELF header of either word size.
_MACHINE = 18
# SHF_WRITE.
_WRITE = 1
_TWINS = (".text.pinpoint_leaf", ".text.pinpoint_calls")


def shipped(guest: Guest, name: str, content: bytes) -> str:
    """Put a module's file into the guest; returns its path there."""
    path = f"/tmp/{name}.ko"
    guest.put(content, path)
    return path


def with_another_build_id(elf: Elf) -> bytes:
    """The same module, address for address, as a build of other sources: only its build-id differs."""
    section = elf.sections[_NOTE]
    note = elf.section_bytes(_NOTE, 0, section.size)
    return _replaced(elf, note, note[:_NOTE_HEADER] + bytes(0xFF ^ byte for byte in note[_NOTE_HEADER:]))


def for_another_kernel(elf: Elf) -> bytes:
    """The same module with a word changed in its vermagic.

    Not the release, which a kernel with CONFIG_MODVERSIONS passes over (same_magic(), kernel/module/version.c, 6.1).
    """
    return _replaced(elf, b"mod_unload", b"mod_reload")


def for_another_machine(elf: Elf) -> bytes:
    """The same module, for a machine that is none."""
    content = bytearray(elf.path.read_bytes())
    content[_MACHINE : _MACHINE + 2] = b"\xff\xff"
    return bytes(content)


def with_two_sections_of_one_name(elf: Elf) -> bytes:
    """A module with a section for each function, two of which have the name of one."""
    content = bytearray(elf.path.read_bytes())
    with elf.path.open("rb") as stream:
        parsed = ELFFile(stream)
        start, size = parsed["e_shoff"], parsed["e_shentsize"]
        first, second = (start + size * parsed.get_section_index(name) for name in _TWINS)
    # A section's header begins with where its name is, a word of four bytes in either class.
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
        # Name and type, four bytes each in either class, are before the flags, which are a word of the class.
        place, form = header + 8, _word(parsed)
    content[place : place + form.size] = form.pack(flags | _WRITE)
    return bytes(content)


def with_a_symbol_of_no_section(elf: Elf) -> bytes:
    """A module with a function in a section behind the last that there is."""
    content = bytearray(elf.path.read_bytes())
    with elf.path.open("rb") as stream:
        parsed = ELFFile(stream)
        table = next(part for part in parsed.iter_sections() if isinstance(part, SymbolTableSection))
        kinds = [symbol["st_info"]["type"] for symbol in table.iter_symbols()]
        number = kinds.index("STT_FUNC")
        # In 64-bit files the section's number is in front of value and size, in 32-bit files it is the last.
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
    """The file with `old`, which it must have once, overwritten by `new` of the same length."""
    content = elf.path.read_bytes()
    if content.count(old) != 1 or len(new) != len(old):
        raise ValueError(f"{elf.path.name} has {content.count(old)} times what is to be replaced")
    return content.replace(old, new)
