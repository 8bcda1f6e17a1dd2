"""Finds the reason why a kernel refuses a probe at a function's entry, from the reasons that its source documents.

docs/sweeps.md lists them with file and line. Each is looked up where the kernel itself looks it up: its blacklist, its
tables of jump labels, static calls and BUGs, the instruction in memory.
"""

from __future__ import annotations

import errno
import struct
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import NamedTuple

from harness.core.architecture import DecoderKind
from harness.core.errors import PinpointError
from harness.landing.code.function_descriptors import protects_suffixed_parts
from harness.landing.code.function_selection import PREAMBLES, read_blacklist_ranges
from harness.landing.code.instruction import Flow, Instruction, InstructionKind
from harness.landing.code.instructions import decode_first_instruction, longest_instruction_size
from harness.landing.code.mips_kprobe_rules import DELAY_SLOT
from harness.landing.code.patch_sites import Range, merge_ranges
from harness.landing.code.patch_tables import JUMPS, jump_label_address_bytes
from harness.landing.code.select_stripped_table_finder import select_table_finder
from harness.landing.layout import Layout
from harness.landing.lookup.find_addresses_refusing_kprobes import module_jump_label_addresses
from harness.landing.mutants import HONEST, Mutant
from harness.landing.probe_module import SiteReport
from harness.landing.site import Site
from harness.landing.sites import rules_mips, rules_x86

# The size of the longest instruction of any architecture (15 bytes on x86), rounded up to whole words.
_LONGEST = 16


class _Table(NamedTuple):
    """A table whose rows begin with a place in code: its distance from the row, or its address if `absolute` is set.

    `first` and `last` are the symbols around the table, `size` is the size of a row in bytes. `address_bytes` is the
    size of an address, if it is not the kernel's word.
    """

    first: str
    last: str
    size: int
    absolute: bool = False
    address_bytes: int = 0


# Instructions with flow ENDS that are no branches: traps, returns from exceptions, exclusive loads.
_TRAP = (Flow.ENDS, InstructionKind.OTHER)
_BUGS = ("__start___bug_table", "__stop___bug_table")
# The decoders whose flow UNKNOWN is what the kernel itself does not know (probe_is_prohibited_opcode(),
# arch/s390/lib/probes.c:14, 6.1). Others have it for what capstone cannot decode, which is no reason.
_KNOWING_AS_THE_KERNEL = frozenset({DecoderKind.S390})
# The rules of kernels that also read the instruction before a probe, and its size in bytes. A function can begin in the
# delay slot of the function before it (__rmemcpy of arch/mips/lib/memcpy.S, 6.1).
_DELAY_SLOT_RULES = {
    DecoderKind.MIPS_LITTLE: rules_mips.refusal_little_endian,
    DecoderKind.MIPS_BIG: rules_mips.refusal_big_endian,
}
_BRANCH_SIZE = 4


class RefusalReasonFinder:
    """Finds the reasons for which one guest's kernel refuses probes."""

    def __init__(self, layout: Layout, mutant: Mutant = HONEST) -> None:
        self.layout = layout
        self._mutant = mutant

    def must_refuse(self, address: int) -> str:
        """The table of the kernel for which it must refuse a probe at an address; "" if there is none.

        The tables are its blacklist, jump labels, static calls and BUGs (check_kprobe_address_safe(), kernel/kprobes.c,
        6.1). Instructions are not read.
        """
        if self._mutant.reserves_all:
            return "reserved by a mutant"
        tables = (name for name, places in self._tables.items() if address in places)
        return "blacklisted" if self._blacklisted(address) else next(tables, "")

    def explains(self, site: Site, address: int, report: SiteReport) -> bool:
        """Return True if the kernel registered a probe at an address, or refused it as its tables or code demand."""
        if report.errno:
            return bool(self.reason(site, address, report.errno))
        return report.address == address and not self.must_refuse(address)

    def reason(self, site: Site, address: int, number: int) -> str:
        """The documented reason for refusing a probe at an address with this errno; "" if there is none."""
        if self._mutant.explains_all:
            return "explained by a mutant"
        if number == errno.EOPNOTSUPP:
            return self._not_supported(address)
        if number == errno.ENOSPC:
            # prepare_singlestep(), arch/x86/kernel/kprobes/core.c, 6.1.
            return "instruction of 15 bytes" if self._fills_its_copy(address) else ""
        if number == errno.EILSEQ:
            # INT and UD (is_exception_insn() in can_probe(), arch/x86/kernel/kprobes/core.c, 7.3).
            return "trap, which is not stepped" if self._unsteppable(address) else ""
        if number != errno.EINVAL:
            return ""
        return next((reason for reason, holds in self._reasons(site, address) if holds), "")

    def _reasons(self, site: Site, address: int) -> Iterator[tuple[str, bool]]:
        yield "blacklisted", self._blacklisted(address)
        yield "part of a blacklisted function", self._base_blacklisted(site)
        yield "preamble of a function", site.symbol.startswith(PREAMBLES) or address in self._preambles
        for name, places in self._tables.items():
            yield name, address in places
        yield "jump label", address in self._module_jump_labels
        yield "instruction that is not stepped", self._unsteppable(address)
        yield "bytes that are no instruction", self._no_instruction(address)
        yield DELAY_SLOT, self._in_delay_slot(address)

    def _blacklisted(self, address: int) -> bool:
        index = bisect_right(self._ranges, address, key=lambda each: each.start) - 1
        return index >= 0 and address < self._ranges[index].end

    @cached_property
    def _ranges(self) -> list[Range]:
        return merge_ranges(Range(*each) for each in read_blacklist_ranges(self.layout.guest))

    @cached_property
    def _preambles(self) -> frozenset[int]:
        """The addresses of the kernel's preambles. Another symbol may be there, too: __sched_text_start (x86, 6.12)."""
        kernel, slide = self.layout.kernel, self.layout.slide
        return frozenset(each.address + slide for each in kernel.symbols if each.name.startswith(PREAMBLES))

    def _base_blacklisted(self, site: Site) -> bool:
        """True for `f.cold`, `f.part.0` and similar if `f` is on the blacklist (within_kprobe_blacklist())."""
        base, dot, _ = site.symbol.partition(".")
        found = self.layout.kernel.symbols_named(base) if dot and protects_suffixed_parts(self.layout.kernel) else []
        return any(self._blacklisted(symbol.address + self.layout.slide) for symbol in found)

    @cached_property
    def _tables(self) -> Mapping[str, frozenset[int]]:
        config, word = self.layout.guest.image.config, self.layout.kernel.word_bytes
        relative = "CONFIG_GENERIC_BUG_RELATIVE_POINTERS" in config
        verbose = "CONFIG_DEBUG_BUGVERBOSE" in config
        pointer = 4 if relative else word
        jumps_relative = "CONFIG_HAVE_ARCH_JUMP_LABEL_RELATIVE" in config
        jump_address = jump_label_address_bytes(self.layout.kernel.machine, word)
        # struct jump_entry with 32-bit distances or three addresses, struct static_call_site, struct bug_entry.
        tables = {
            "jump label": _Table(
                JUMPS,
                "__stop___jump_table",
                8 + word if jumps_relative else 3 * jump_address,
                not jumps_relative,
                jump_address,
            ),
            "static call": _Table("__start_static_call_sites", "__stop_static_call_sites", 8),
            "BUG or WARN": _Table(*_BUGS, 2 * pointer + 4 if verbose else -(-(pointer + 2) // 4) * 4, not relative),
        }
        return {name: frozenset(self._places(table)) for name, table in tables.items()}

    @cached_property
    def _module_jump_labels(self) -> frozenset[int]:
        modules = self.layout.modules.values()
        return frozenset(address for loaded in modules for address in module_jump_label_addresses(loaded))

    def _places(self, table: _Table) -> Iterator[int]:
        """The load addresses of the code places at the start of a table's rows."""
        kernel = self.layout.kernel
        field = {4: "I", 8: "Q"}[table.address_bytes or kernel.word_bytes] if table.absolute else "i"
        for start, end in self._stretches(table):
            content = kernel.bytes_at(start, end - start)
            for place in range(0, len(content) - table.size + 1, table.size):
                code = struct.unpack_from(f"{kernel.struct_order}{field}", content, place)[0]
                yield (code if table.absolute else start + place + code) + self.layout.slide

    def _stretches(self, table: _Table) -> list[tuple[int, int]]:
        """The address ranges of a table; empty if the kernel does not have it."""
        kernel = self.layout.kernel
        first, last = kernel.symbols_named(table.first), kernel.symbols_named(table.last)
        if first and last:
            return [(first[0].address, last[0].address)]
        recovered = select_table_finder(kernel) if table.first == JUMPS else None
        return [(rows.start, rows.end) for rows in recovered.find_row_ranges_of_table(JUMPS)] if recovered else []

    def _not_supported(self, address: int) -> str:
        """The reason of prepare_emulation() on x86: calls and jumps through memory, far ones, virtual machines."""
        if self.layout.decoder is DecoderKind.X86_64:
            code = self._memory(address, _LONGEST)
            # The rules that depend on the version have other errors.
            number, why = rules_x86.refusal_errno_and_reason(code, 0, (0, 0)) if code else (0, "")
            return why if number == errno.EOPNOTSUPP else ""
        found = self._instruction(address)
        through_memory = found is not None and found.kind is InstructionKind.THROUGH_MEMORY
        return "call or jump through memory" if through_memory else ""

    def _fills_its_copy(self, address: int) -> bool:
        """True for an instruction of x86's maximum length, which leaves no room for a breakpoint in its copy."""
        found = self._instruction(address)
        return found is not None and found.size == longest_instruction_size(self.layout.decoder)

    def _unsteppable(self, address: int) -> bool:
        """True if kprobes cannot step the instruction that is in memory now, for example a trap."""
        found = self._instruction(address)
        return found is not None and (found.flow is Flow.REFUSED or (found.flow, found.kind) == _TRAP)

    def _no_instruction(self, address: int) -> bool:
        """True if the kernel knows no instruction with this opcode: data between functions."""
        found = self._instruction(address)
        decoder = self.layout.guest.architecture.kprobe_traits.decoder
        return decoder in _KNOWING_AS_THE_KERNEL and found is not None and found.flow is Flow.UNKNOWN

    def _in_delay_slot(self, address: int) -> bool:
        """True if the kernel treats the instruction before the address as a branch with a delay slot."""
        rule = _DELAY_SLOT_RULES.get(self.layout.guest.architecture.kprobe_traits.decoder)
        code = self._memory(address - _BRANCH_SIZE, 2 * _BRANCH_SIZE) if rule else None
        return rule is not None and code is not None and rule(code, _BRANCH_SIZE, (0, 0))[1] == DELAY_SLOT

    def _instruction(self, address: int) -> Instruction | None:
        """The instruction that is in memory now; None if memory cannot be read."""
        code = self._memory(address, _LONGEST)
        return (
            None
            if code is None
            else decode_first_instruction(code, self.layout.guest.architecture.kprobe_traits.decoder)
        )

    def _memory(self, address: int, size: int) -> bytes | None:
        """The bytes that are in memory now; None if memory cannot be read."""
        try:
            return self.layout.guest.memory.read(address, size)
        except PinpointError:
            return None
