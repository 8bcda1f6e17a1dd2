"""gdb on a guest's kernel, through a private socket to QEMU's stub, with symbols at this guest's addresses."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.core import child_privilege_drop, process
from harness.core.architecture import Architecture
from harness.core.elf import Elf
from harness.core.errors import GuestError, HostError
from harness.guest.guest import Guest

# Debian's gdb supports the host's own architecture only.
_FOR_ALL, _FOR_NATIVE = "gdb-multiarch", "gdb"
_TABLES = (".symtab", ".strtab")


@dataclass(frozen=True)
class SymbolFiles:
    """Addresses of the kernel and the modules of a guest.

    `slide` is in bytes; `module_section_addresses` maps a module's file to the loaded addresses of its sections by
    name.
    """

    vmlinux: Path
    slide: int
    module_section_addresses: Mapping[Path, Mapping[str, int]]

    def gdb_commands(self) -> list[str]:
        """Return the gdb commands that load the symbols; `-o` adds the slide to every section (gdb 8.2 and later)."""
        kernel = f"add-symbol-file {_quoted(self.vmlinux)} -o {self.slide:#x}"
        return [kernel, *(_module(path, sections) for path, sections in self.module_section_addresses.items())]


def _module(path: Path, sections: Mapping[str, int]) -> str:
    own = Elf.read_cached(path).sections_by_name
    # The kernel also lists its copy of the module's symbol table, which is neither code nor data.
    loaded = {name: address for name, address in sections.items() if name in own and name not in _TABLES}
    places = " ".join(f"-s {name} {address:#x}" for name, address in sorted(loaded.items()))
    return f"add-symbol-file {_quoted(path)} {places}"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def find_gdb(architecture: Architecture) -> str:
    """Return the name of a gdb that can debug this architecture. Raises HostError with the name of the package."""
    usable = (_FOR_ALL, _FOR_NATIVE) if architecture.native else (_FOR_ALL,)
    for name in usable:
        if shutil.which(name):
            return name
    raise HostError(f"no gdb for {architecture.name} is installed", mend=f"install the package {_FOR_ALL}")


def run_gdb(guest: Guest, symbols: SymbolFiles) -> int:
    """Run gdb on the guest and return gdb's exit status; the guest is stopped while gdb runs.

    Raises HostError when no gdb is installed, GuestError when QEMU opens no gdb stub.
    """
    gdb = find_gdb(guest.architecture)
    # gdb has the user of QEMU. What it reads, a guest could have influenced.
    given = child_privilege_drop.grant_restricted_rights([symbols.vmlinux, *symbols.module_section_addresses])
    with open_gdb_stub(guest) as address:
        commands = [
            "set pagination off",
            "set confirm off",
            "set sysroot /",
            # Sets the architecture and the byte order and loads no symbols: the addresses of this guest differ.
            f"exec-file {_quoted(symbols.vmlinux)}",
            f"target remote {address}",
            *symbols.gdb_commands(),
        ]
        words = [word for command in commands for word in ("-ex", command)]
        return process.run_foreground([gdb, "-nx", "-q", *words], given)


@contextmanager
def open_gdb_stub(guest: Guest) -> Iterator[str]:
    """Open QEMU's gdb stub on a Unix socket in a directory that only QEMU's user can enter; yield the socket's path."""
    with tempfile.TemporaryDirectory(
        prefix="pinpoint-gdb-", dir=child_privilege_drop.temporary_directory_qemu_may_enter()
    ) as directory:
        child_privilege_drop.give_to_qemu_user(Path(directory))
        address = f"{directory}/stub"
        reply = guest.monitor.hmp(f"gdbserver unix:{address},server=on,wait=off")
        if not Path(address).is_socket():
            raise GuestError(f"QEMU opens no gdb stub: {' '.join(reply.split())}", where=guest.name)
        try:
            yield address
        finally:
            guest.monitor.hmp("gdbserver none")
