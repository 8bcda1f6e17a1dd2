"""The code of a kernel in which it refuses probes, from its ELF file alone: its blacklist and its patch tables."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from harness.core.architecture import FtraceCallInstruction, KprobeTraits
from harness.core.elf import Elf
from harness.landing.code.bug_table import linked_bug_addresses
from harness.landing.code.closest_symbol import is_kept_by_kallsyms
from harness.landing.code.function_descriptors import function_descriptors, protects_suffixed_parts
from harness.landing.code.function_selection import PREAMBLES
from harness.landing.code.patch_sites import LINKED, Range, dynamic_values, ftrace_sites, merge_ranges, table_ranges
from harness.landing.code.patch_tables import ALTERNATIVES, JUMPS, RISCV_ALTERNATIVES, STATIC_CALLS
from harness.landing.code.select_stripped_table_finder import select_table_finder
from harness.landing.code.stripped_arm64_tables import EXCEPTIONS
from harness.landing.code.stripped_x86_32_tables import X86TableFinder

_BLACKLIST = ("__start_kprobe_blacklist", "__stop_kprobe_blacklist")
# A function that every kernel with kprobes has on its blacklist (NOKPROBE_SYMBOL(get_kprobe), kernel/kprobes.c).
_ALWAYS_LISTED = "get_kprobe"
# Areas on the blacklist of every architecture (populate_kprobe_blacklist(), kernel/kprobes.c, 6.1).
_AREAS = ("kprobes", "noinstr")
# Tables that rewrite text at boot, into code that depends on the processor. The kernel accepts probes on all of it.
_RETPOLINES = "__retpoline_sites"
_REWRITTEN = (ALTERNATIVES, RISCV_ALTERNATIVES, "__parainstructions", _RETPOLINES)
_RETURNS = "__return_sites"
# A trampoline of a static call begins with a jump, or with a return and traps (arch/x86/kernel/static_call.c, 6.1).
_TRAMPOLINES, _TRAMPOLINE_BYTES = "__SCT__", 5
_EXCEPTION_ROW = {"EM_AARCH64": 12}
_ABOVE_ALL_ADDRESSES = 1 << 64


class Reserved:
    """The reserved code of one vmlinux, by link address.

    `blacklist_found_in_file` is false if the file has no blacklist that can be found; then `is_blacklisted` knows only
    areas.
    """

    def __init__(self, kernel: Elf, config: Mapping[str, str], kprobes: KprobeTraits) -> None:
        self._kernel = kernel
        self._config = config
        self._kprobes = kprobes
        tables = select_table_finder(kernel)
        # That of 32-bit x86 finds no list of pointers.
        self._flat = None if isinstance(tables, X86TableFinder) else tables

    def refusal_reason(self, address: int) -> str:
        """The reason why check_kprobe_address_safe() refuses an address with EINVAL; "" if it does not."""
        if self._on_refused_ftrace_site(address):
            return "ftrace site"
        if address not in self._kernel.text_range:
            return "text that is freed after boot" if self._is_initial(address) else "not in the kernel's text"
        if self.is_blacklisted(address):
            return "blacklisted"
        if self._part_of_blacklisted(address):
            return "part of a blacklisted function"
        reasons = (("jump label", self._jumps), ("static call", self._static_calls), ("BUG or WARN", self._bugs))
        found = next((reason for reason, places in reasons if _within(places, address)), "")
        return found or ("preamble of a function" if self._names_at(address, PREAMBLES) else "")

    def is_blacklisted(self, address: int) -> bool:
        """True if the address is in a function or an area of the blacklist."""
        return _within(self._blacklist, address)

    @property
    def blacklist_found_in_file(self) -> bool:
        """True if the file's own list of functions was found."""
        return bool(self._listed)

    def in_exception_table(self, address: int) -> bool:
        """True if the kernel refuses the address because the exception table names it."""
        return self._kprobes.refuses_exception_table and address in self._exceptions

    def is_rewritten_at_boot(self, address: int) -> bool:
        """True if the kernel replaces the code here at boot, and the first instruction may become any other.

        An indirect call that was compiled as a call of a thunk begins with a call in any case (apply_retpolines()).
        """
        return _within(self._rewritten, address) and address not in self._thunk_calls

    def is_in_return_jump(self, address: int) -> bool:
        """True in a jump to a return thunk, which the kernel may replace by a return and traps (apply_returns())."""
        return _within(self._returns, address)

    def is_in_trampoline_jump(self, address: int) -> bool:
        """True in the first instruction of a static call's trampoline, a jump to the call's target.

        If the call has no target, it is a return and traps. The kernel replaces one by the other.
        """
        return _within(self._trampolines, address)

    def on_ftrace_site(self, address: int) -> bool:
        """True if ftrace patches the instruction at exactly this address."""
        place = ftrace_sites(self._kernel).site_at(LINKED, address)
        return place is not None and self._ftrace_instruction(place) == address

    def closest_symbol_start(self, address: int) -> int:
        """The closest symbol at or below an address: where the kernel begins to decode."""
        return self._starts[max(0, bisect_right(self._starts, address) - 1)]

    def _ftrace_instruction(self, place: Range) -> int:
        """The address of the patched instruction: the second word of arm64's two nops."""
        return place.end - 4 if self._kprobes.ftrace_call_instruction is FtraceCallInstruction.ARM64_BL else place.start

    def _on_refused_ftrace_site(self, address: int) -> bool:
        return self._config.get("CONFIG_KPROBES_ON_FTRACE") != "y" and self.on_ftrace_site(address)

    def _is_initial(self, address: int) -> bool:
        return (
            bool(self._kernel.symbols_named("_sinittext"))
            and address >= self._kernel.symbols_named("_sinittext")[0].address
        )

    @cached_property
    def _blacklist(self) -> Sequence[Range]:
        spans = [self._function(start) for start in self._listed]
        for name in (*_AREAS, *self._kprobes.reserved_text_areas):
            marks = [self._kernel.symbols_named(f"__{name}_text_{end}") for end in ("start", "end")]
            if all(marks) and marks[0][0].address < marks[1][0].address:
                last = self._function(marks[1][0].address - 1)
                spans.append(Range(marks[0][0].address, last.end))
        for begin, end in self._kprobes.refused_symbol_ranges:
            marks = [self._kernel.symbols_named(name) for name in (begin, end)]
            if all(marks):
                spans.append(Range(marks[0][0].address, marks[1][0].address))
        return merge_ranges(spans)

    @cached_property
    def _listed(self) -> Sequence[int]:
        """The link addresses of the functions that NOKPROBE_SYMBOL() names."""
        first, last = (self._kernel.symbols_named(name) for name in _BLACKLIST)
        if first and last:
            form = struct.Struct(f"{self._kernel.struct_order}{ {4: 'I', 8: 'Q'}[self._kernel.word_bytes] }")
            start = first[0].address
            moved = dynamic_values(self._kernel)
            rows = form.iter_unpack(self._kernel.bytes_at(start, last[0].address - start))
            code_address = function_descriptors(self._kernel).code_address
            return [code_address(moved.get(start + index * form.size, value)) for index, (value,) in enumerate(rows)]
        known = self._kernel.symbols_named(_ALWAYS_LISTED)
        return self._flat.adjacent_pointers_including(known[0].address) if self._flat and known else []

    def _function(self, address: int) -> Range:
        """The bytes from the symbol at or below an address to the next symbol, as kallsyms sizes a function."""
        place = bisect_right(self._starts, address)
        end = self._starts[place] if place < len(self._starts) else address
        return Range(self._starts[max(0, place - 1)], end)

    @cached_property
    def _starts(self) -> Sequence[int]:
        text = {section for section, each in self._kernel.sections_by_name.items() if each.executable}
        return sorted(
            {each.address for each in self._kernel.symbols if each.section in text and is_kept_by_kallsyms(each.name)}
        )

    def _part_of_blacklisted(self, address: int) -> bool:
        """True for code of `f.cold`, `f.part.0` and similar if `f` is on the blacklist (within_kprobe_blacklist())."""
        if not protects_suffixed_parts(self._kernel):
            return False
        bases = (name.partition(".")[0] for name in self._names[self.closest_symbol_start(address)] if "." in name)
        found = (symbol for base in bases for symbol in self._kernel.symbols_named(base))
        return any(self.is_blacklisted(symbol.address) for symbol in found)

    def _names_at(self, address: int, prefixes: tuple[str, ...]) -> bool:
        return any(name.startswith(prefixes) for name in self._names[self.closest_symbol_start(address)])

    @cached_property
    def _names(self) -> Mapping[int, Sequence[str]]:
        found: dict[int, list[str]] = {}
        for symbol in self._kernel.symbols:
            found.setdefault(symbol.address, []).append(symbol.name)
        return found

    @cached_property
    def _jumps(self) -> Sequence[Range]:
        return merge_ranges(table_ranges(self._kernel, JUMPS))

    @cached_property
    def _static_calls(self) -> Sequence[Range]:
        # Every byte of the call counts, also for a tail call with a prefix (addr_conflict(), static_call_inline.c).
        return merge_ranges(Range(each.start, each.start + 5) for each in table_ranges(self._kernel, STATIC_CALLS))

    @cached_property
    def _bugs(self) -> Sequence[Range]:
        return merge_ranges(Range(place, place + 1) for place in linked_bug_addresses(self._kernel, self._config))

    @cached_property
    def _rewritten(self) -> Sequence[Range]:
        return merge_ranges(each for begin in _REWRITTEN for each in table_ranges(self._kernel, begin))

    @cached_property
    def _thunk_calls(self) -> frozenset[int]:
        return frozenset(each.start for each in table_ranges(self._kernel, _RETPOLINES))

    @cached_property
    def _returns(self) -> Sequence[Range]:
        return merge_ranges(table_ranges(self._kernel, _RETURNS))

    @cached_property
    def _trampolines(self) -> Sequence[Range]:
        return merge_ranges(
            Range(each.address, each.address + _TRAMPOLINE_BYTES)
            for each in self._kernel.symbols
            if each.name.startswith(_TRAMPOLINES)
        )

    @cached_property
    def _exceptions(self) -> frozenset[int]:
        size = _EXCEPTION_ROW[self._kernel.machine]
        found: list[int] = []
        for start, end in self._exception_rows():
            content = self._kernel.bytes_at(start, end - start)
            found += (
                start + place + struct.unpack_from(f"{self._kernel.struct_order}i", content, place)[0]
                for place in range(0, len(content) - size + 1, size)
            )
        return frozenset(found)

    def _exception_rows(self) -> Iterator[tuple[int, int]]:
        first, last = self._kernel.symbols_named(EXCEPTIONS), self._kernel.symbols_named("__stop___ex_table")
        if first and last:
            yield first[0].address, last[0].address
        elif self._flat:
            yield from self._flat.find_row_ranges_of_table(EXCEPTIONS)


def _within(spans: Sequence[Range], address: int) -> bool:
    # Tuples compare faster than a key function: every offset of every function comes here seven times.
    place = bisect_right(spans, (address, _ABOVE_ALL_ADDRESSES)) - 1
    return place >= 0 and address < spans[place].end
