"""Module files changed in one place, which a kernel or a validator must distinguish from the original."""

from __future__ import annotations

from elftools.elf.elffile import ELFFile

from harness.core.elf import Elf
from harness.guest.guest import Guest

_NOTE = ".note.gnu.build-id"
_NOTE_HEADER = 16
# Where e_machine stands in an ELF header of either word size.
_MACHINE = 18
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
