"""Guest memory read from the host: QEMU copies it into a shared file; the guest does not take part."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

from harness.core.architecture import AddressTranslation
from harness.core.elf import Elf
from harness.core.errors import GuestError, UnmappedError
from harness.guest import mips_page_table_walk
from harness.guest.mips_page_table_walk import MipsPageTables
from harness.guest.monitor import Monitor
from harness.guest.page_table_memory import PageTableMemory, PageTables
from harness.guest.parisc_page_table_walk import SHAPES, PariscPageTables
from harness.guest.sparc64_page_table_walk import Sparc64PageTables

# Spans with a smaller gap are read as one: copying this many bytes costs QEMU less than another command.
_GAP = 64 << 10
# With page-table isolation, a virtual CPU in user mode does not map the kernel. It returns to the kernel within a tick.
_USER_MODE_SECONDS = 3.0
_USER_MODE_PAUSE = 0.002


class Span(NamedTuple):
    """An address and a size in bytes."""

    address: int
    size: int


class _Space(Protocol):
    """An address space of kernel virtual addresses."""

    def read_span(self, span: Span) -> bytes:
        """Return the bytes of a span. Raises UnmappedError when a page of it is not mapped."""


@dataclass(frozen=True)
class SharedFile:
    """A memory-backed file; QEMU inherits its descriptor and writes to it by the descriptor's path."""

    descriptor: int

    @classmethod
    def make_empty(cls) -> SharedFile:
        """Return an empty shared file."""
        return cls(os.memfd_create("pinpoint-memory", 0))

    @property
    def path(self) -> str:
        """Path of the file in the process that inherited it."""
        return f"/dev/fd/{self.descriptor}"

    def read_exactly(self, size: int) -> bytes:
        """Return the content of the file. Raises GuestError when its size differs from `size`."""
        content = os.pread(self.descriptor, size, 0)
        if len(content) != size:
            raise GuestError(f"QEMU wrote {len(content)} of {size} bytes of guest memory")
        return content

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)


class Memory:
    """A guest's memory, addressed by kernel virtual address."""

    def __init__(
        self, name: str, monitor: Monitor, shared: SharedFile, translation: AddressTranslation, vmlinux: Path
    ) -> None:
        self._name = name
        self._monitor = monitor
        self._shared = shared
        self._translation = translation
        self._vmlinux = vmlinux

    def read(self, address: int, size: int) -> bytes:
        """Return `size` bytes at a kernel virtual address. Raises UnmappedError when the address is not mapped."""
        return self.read_many([(address, size)])[0]

    def read_many(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of each (address, size), in order; nearby spans share one command. Raises GuestError."""
        wanted = [Span(*span) for span in spans]
        found: dict[Span, bytes] = {}
        for group in _groups(sorted(set(wanted))):
            found |= self._read_group(group)
        return [found[span] for span in wanted]

    def read_physical(self, address: int, size: int) -> bytes:
        """Return `size` bytes at a physical address."""
        self._monitor.execute("pmemsave", val=address, size=size, filename=self._shared.path)
        return self._shared.read_exactly(size)

    def physical_address(self, address: int) -> int:
        """Return the physical address of a kernel virtual address.

        Raises GuestError when it is not mapped, or when QEMU walks this guest's page tables, which returns no address.
        """
        if not isinstance(self._space, PageTableMemory):
            raise GuestError("QEMU translates its addresses, and does not return them", where=self._name)
        return self._space.physical_address(address)

    def _read_group(self, group: Sequence[Span]) -> dict[Span, bytes]:
        """Read all spans of a group at once; in halves if that fails because of a hole between them or of user mode."""
        if len(group) == 1:
            return {group[0]: self._patiently(group[0])}
        start, end = group[0].address, max(span.address + span.size for span in group)
        try:
            block = self._space.read_span(Span(start, end - start))
        except GuestError:
            middle = len(group) // 2
            return self._read_group(group[:middle]) | self._read_group(group[middle:])
        return {span: block[span.address - start : span.address - start + span.size] for span in group}

    def _patiently(self, span: Span) -> bytes:
        """Read one span; retry for _USER_MODE_SECONDS while it appears unmapped."""
        patience = time.monotonic() + _USER_MODE_SECONDS
        while True:
            try:
                return self._space.read_span(span)
            except GuestError:
                if time.monotonic() > patience:
                    raise
                time.sleep(_USER_MODE_PAUSE)

    @cached_property
    def _space(self) -> _Space:
        makers: dict[AddressTranslation, Callable[[], _Space]] = {
            AddressTranslation.QEMU: self._through_cpus,
            AddressTranslation.MIPS32_TABLES: self._through_mips_tables,
            AddressTranslation.MIPS64_TABLES: self._through_mips_tables,
            AddressTranslation.PARISC_TABLES: self._through_parisc_tables,
            AddressTranslation.PARISC64_TABLES: self._through_parisc_tables,
            AddressTranslation.SPARC64_TABLES: self._through_sparc64_tables,
            AddressTranslation.SUPERH_TABLES: self._through_superh_tables,
        }
        return makers[self._translation]()

    def _through_cpus(self) -> _Space:
        cpus = self._monitor.execute("query-cpus-fast")
        return _CpuSpace(self._name, self._monitor, self._shared, [cpu["cpu-index"] for cpu in cpus])

    def _through_mips_tables(self) -> _Space:
        """A packaged kernel has no symbols of data; swapper_pg_dir is the first in .bss (arch/mips/kernel, 6.1)."""
        sections = Elf.read_cached(self._vmlinux).sections_by_name
        if ".bss" not in sections:
            raise GuestError("its vmlinux has no section .bss", where=self._name)
        shape = mips_page_table_walk.SHAPES[self._translation]
        return self._through_tables(MipsPageTables(shape, sections[".bss"].address))

    def _through_parisc_tables(self) -> _Space:
        shape = SHAPES[self._translation]
        return self._through_tables(PariscPageTables(shape, self._symbol_address("swapper_pg_dir")))

    def _through_sparc64_tables(self) -> _Space:
        return self._through_tables(
            Sparc64PageTables(self._symbol_address("swapper_pg_dir"), self._symbol_address("_end"))
        )

    def _through_superh_tables(self) -> _Space:
        shape = mips_page_table_walk.SHAPES[self._translation]
        return self._through_tables(MipsPageTables(shape, self._symbol_address("swapper_pg_dir")))

    def _through_tables(self, tables: PageTables) -> _Space:
        return PageTableMemory(tables, self.read_physical)

    def _symbol_address(self, name: str) -> int:
        """Return the link address of a symbol of the kernel. Raises GuestError unless exactly one has this name."""
        found = Elf.read_cached(self._vmlinux).symbols_named(name)
        if len(found) != 1:
            raise GuestError(f"its vmlinux has {len(found)} symbols {name}, not one", where=self._name)
        return found[0].address


def _groups(spans: Sequence[Span]) -> list[list[Span]]:
    """Group sorted spans; spans with a gap of at most _GAP share a group."""
    groups: list[list[Span]] = []
    end = 0
    for span in spans:
        if groups and span.address <= end + _GAP:
            groups[-1].append(span)
        else:
            groups.append([span])
            end = 0
        end = max(end, span.address + span.size)
    return groups


@dataclass(frozen=True)
class _CpuSpace:
    """The current address space of a virtual CPU: QEMU walks the page tables to which the CPU's registers point."""

    name: str
    monitor: Monitor
    shared: SharedFile
    cpus: Sequence[int]

    def read_span(self, span: Span) -> bytes:
        """Read a span through the first virtual CPU that maps it."""
        refusals = []
        for cpu in self.cpus:
            try:
                self._save(span, cpu)
            except GuestError as refusal:
                refusals.append(refusal)
            else:
                return self.shared.read_exactly(span.size)
        raise UnmappedError(f"no memory at {span.address:#x}: {refusals[0].what}", where=self.name)

    def _save(self, span: Span, cpu: int) -> None:
        # QMP's integers are signed; QEMU uses their bits unchanged (qapi/machine.json, memsave).
        signed = span.address - (1 << 64) if span.address >> 63 else span.address
        self.monitor.execute("memsave", val=signed, size=span.size, filename=self.shared.path, cpu_index=cpu)
