"""Checks of a user's kernel module before a guest is booted for it."""

from __future__ import annotations

from pathlib import Path

from harness.core.architecture import Architecture
from harness.core.elf import Elf
from harness.core.errors import PinpointError, UsageError

_COMPRESSED = {b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"\x1f\x8b": "gzip"}


def read_module_elf(file: Path, architecture: Architecture) -> Elf:
    """Return the ELF of a module for this architecture. Raises UsageError, one line, for any other file."""
    try:
        with file.open("rb") as stream:
            magic = stream.read(5)
        elf = Elf.read(file)
    except OSError as error:
        raise UsageError(str(error.strerror), where=str(file), mend="give the path of a kernel module") from None
    except PinpointError as error:
        packed = next((name for begins, name in _COMPRESSED.items() if magic.startswith(begins)), "")
        mend = f"unpack it with {packed} -d" if packed else "give the .ko file that kbuild made"
        raise UsageError(error.what, where=str(file), mend=mend) from None
    _demand_module(elf)
    if (elf.machine, elf.word_bytes) != (architecture.elf_machine, architecture.word_bytes):
        raise UsageError(
            f"is for {elf.machine}, {elf.word_bytes * 8} bit; the VM is {architecture.elf_machine}, "
            f"{architecture.word_bytes * 8} bit",
            where=str(file),
            mend="choose another --vm or build it for this one",
        )
    return elf


def _demand_module(elf: Elf) -> None:
    where = str(elf.path)
    if elf.linked:
        raise UsageError("is a linked program or library, not a module", where=where, mend="give a .ko file")
    if ".modinfo" not in elf.sections_by_name or ".gnu.linkonce.this_module" not in elf.sections_by_name:
        raise UsageError(
            "is an object file, not a module", where=where, mend="use kbuild: make -C KERNEL M=DIRECTORY modules"
        )
    try:
        known = len(elf.symbols)
    except PinpointError as error:
        raise UsageError(error.what, where=where, mend=error.mend) from None
    if not known:
        raise UsageError("has an empty symbol table", where=where, mend="give the file before it was stripped")
