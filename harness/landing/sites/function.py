"""Every offset of one kernel function: its instruction, whether the kernel accepts a probe there, and why not."""

from __future__ import annotations

import errno
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from harness.core import paths
from harness.core.architecture import Architecture, DecoderKind
from harness.core.elf import Elf, Symbol
from harness.core.errors import UsageError
from harness.images.image import Image
from harness.landing.code.entry_shift import entry_shift
from harness.landing.code.instruction import Instruction
from harness.landing.code.instructions import decode_function
from harness.landing.code.kernel_file import kernel_file, short_name
from harness.landing.sites import (
    objdump,
    rules_arm,
    rules_arm64,
    rules_loongarch,
    rules_mips,
    rules_ppc64,
    rules_riscv,
    rules_s390,
    rules_superh,
    rules_x86,
)
from harness.landing.sites.reserved import Reserved

# The rules for the instruction itself. parisc and SPARC have none (arch_prepare_kprobe(), arch/*/kernel/kprobes.c, 6.1,
# which checks only the alignment).
_Rule = Callable[[bytes, int, tuple[int, int]], tuple[int, str]]
_RULES: Mapping[DecoderKind, _Rule] = {
    DecoderKind.X86_64: rules_x86.refusal_errno_and_reason,
    DecoderKind.AARCH64: rules_arm64.refusal_errno_and_reason,
    DecoderKind.ARM: rules_arm.refusal_errno_and_reason,
    DecoderKind.S390: rules_s390.refusal_errno_and_reason,
    DecoderKind.RISCV: rules_riscv.refusal_errno_and_reason,
    DecoderKind.LOONGARCH: rules_loongarch.refusal_errno_and_reason,
    DecoderKind.MIPS_LITTLE: rules_mips.refusal_little_endian,
    DecoderKind.MIPS_BIG: rules_mips.refusal_big_endian,
    DecoderKind.PPC64: rules_ppc64.refusal_errno_and_reason,
    DecoderKind.SUPERH: rules_superh.refusal_errno_and_reason,
    DecoderKind.PPC64_BIG: rules_ppc64.refusal_in_big_endian,
}


def rule_for_instruction(decoder: DecoderKind) -> _Rule:
    """Return the rule of an architecture: (code, offset, version) to errno and reason."""
    return _RULES[decoder]


@dataclass(frozen=True)
class Answer:
    """The kernel's answer to a probe at one offset, as far as the files show it.

    `accepted` is None if the files do not suffice, because the kernel rewrites the code there at boot. `errno` is the
    positive error number of a refusal; 0 if the probe is accepted, and also if the number depends on the boot.
    """

    accepted: bool | None
    errno: int = 0
    reason: str = ""


@dataclass(frozen=True)
class InstructionSite:
    """One instruction of a function.

    `patch_kind` is what the kernel writes for an enabled probe: `breakpoint` or `ftrace call`; "" where it refuses.
    `confirmed_by_objdump` is true if a second disassembler finds an instruction at the same address.
    """

    offset: int
    size: int
    disassembly: str
    answer: Answer
    patch_kind: str
    confirmed_by_objdump: bool


@dataclass(frozen=True)
class Function:
    """One function, by name.

    `aliases` are other names of its address. `same_name_symbols` are other symbols of its name, as `address kind`; the
    kernel never finds them by name. `landing_pad_size` is the number of bytes by which a probe on symbol+0 is moved.
    """

    name: str
    address: int
    size: int
    landing_pad_size: int
    aliases: tuple[str, ...]
    same_name_symbols: tuple[str, ...]
    instructions: tuple[InstructionSite, ...]
    answers_inside_instructions: dict[int, Answer]


class FunctionSites:
    """Answers for the functions of one image's kernel, from its files."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self.kernel: Elf = kernel_file(image)
        self._architecture: Architecture = image.recipe.architecture
        self._decoder: DecoderKind = self._architecture.kprobe_traits.decoder
        self.reserved = Reserved(self.kernel, image.config, self._architecture.kprobe_traits)
        self._kept: tuple[Symbol | None, Sequence[Instruction], frozenset[int]] = None, (), frozenset()
        self._version = image.version

    def find_function_as_kernel_would(self, name: str) -> Symbol:
        """Return the function that the kernel finds by this name: the one with the lowest address.

        Raises UsageError if there is none.
        """
        functions = [symbol for symbol in self.kernel.symbols_named(name) if symbol.kind == "func" and symbol.size]
        if not functions:
            part = short_name(name)
            close = sorted(each.name for each in self.kernel.symbols if each.kind == "func" and part in each.name)[:5]
            mend = f"similar: {', '.join(close)}" if close else f"see /proc/kallsyms in {paths.PROGRAM} shell"
            raise UsageError(f"no function is named {name!r}", where=self.image.recipe.name, mend=mend)
        return min(functions, key=lambda symbol: symbol.address)

    def describe_function(self, name: str) -> Function:
        """Return everything about one function. Raises UsageError if there is none, PinpointError if it is not code."""
        symbol = self.find_function_as_kernel_would(name)
        code = self._code(symbol)
        end = code[-1].end
        text = objdump.disassemble_range(
            self.image.vmlinux, self._architecture, symbol.address, symbol.address + max(end, symbol.size)
        )
        rows = tuple(self._offset(symbol, each, text) for each in code)
        starts = self._starts(symbol)
        between = {offset: self.probe_answer(symbol, offset) for offset in range(end) if offset not in starts}
        return Function(
            name,
            symbol.address,
            end,
            self.landing_pad_size(symbol),
            tuple(sorted({each.name for each in self._at(symbol.address)} - {name})),
            tuple(f"{each.address:#x} {each.kind}" for each in self.kernel.symbols_named(name) if each != symbol),
            rows,
            between,
        )

    def predict_all_offsets(self, symbol: Symbol) -> dict[int, Answer]:
        """Return the answer for each offset of a function, without the text of its instructions.

        Raises PinpointError if it is not code.
        """
        return {offset: self.probe_answer(symbol, offset) for offset in range(self._code(symbol)[-1].end)}

    def landing_pad_size(self, symbol: Symbol) -> int:
        """The size of the landing pad that a probe on the entry is moved past; 0 if the function has none."""
        return entry_shift(self.kernel, symbol, self._architecture.kprobe_traits)

    def probe_answer(self, symbol: Symbol, offset: int) -> Answer:
        """Return the kernel's answer to a probe on symbol + offset."""
        place = offset + (self.landing_pad_size(symbol) if not offset else 0)
        address = symbol.address + place
        reserved = self.reserved.refusal_reason(address)
        if reserved:
            return Answer(False, errno.EINVAL, reserved)
        if address % self._architecture.kprobe_traits.instruction_alignment:
            return self._inside_instruction
        if self.reserved.in_exception_table(address):
            return Answer(False, errno.EINVAL, "in the exception table")
        return self._by_instruction(symbol, place, address)

    def _by_instruction(self, symbol: Symbol, place: int, address: int) -> Answer:
        """Return the answer of arch_prepare_kprobe(), which decodes the instruction in memory."""
        rule = _RULES.get(self._decoder)
        if rule is None:
            return Answer(True)
        if self.reserved.is_rewritten_at_boot(address):
            return Answer(None, 0, "rewritten at boot")
        if place not in self._starts(symbol):
            if self.reserved.is_in_return_jump(address):
                # The kernel writes a return and traps, or leaves a jump; it refuses with EINVAL or EILSEQ.
                return Answer(False, 0, "inside a return")
            if self.reserved.is_in_trampoline_jump(address):
                # A jump, or a return and traps.
                return Answer(False, 0, "inside the jump of a static call's trampoline")
            return self._inside_instruction
        if place and self.reserved.is_in_trampoline_jump(address):
            # The file has a return and other instructions here, and the kernel may have written a jump.
            return Answer(None, 0, "rewritten for a static call")
        number, why = rule(self.kernel.function_bytes(symbol), place, self._version)
        return Answer(not number, number, why)

    @property
    def _inside_instruction(self) -> Answer:
        """The answer inside of an instruction; None where the kernel decodes the bytes there, whatever they are."""
        number = self._architecture.kprobe_traits.mid_instruction_errno
        return Answer(False if number else None, number, "inside an instruction")

    def _offset(self, symbol: Symbol, each: Instruction, text: Mapping[int, str]) -> InstructionSite:
        address = symbol.address + each.offset
        answer = self.probe_answer(symbol, each.offset)
        shifted = address + (0 if each.offset else self.landing_pad_size(symbol))
        arms = "ftrace call" if self.reserved.on_ftrace_site(shifted) else "breakpoint"
        found = text.get(address, "")
        shown = arms if answer.accepted is not False else ""
        return InstructionSite(each.offset, each.size, found or "?", answer, shown, objdump.is_instruction(found))

    def _code(self, symbol: Symbol) -> Sequence[Instruction]:
        """The instructions of a function; those of the last function are kept."""
        if self._kept[0] != symbol:
            code = decode_function(self.kernel, symbol, self._decoder)
            self._kept = symbol, code, frozenset(each.offset for each in code)
        return self._kept[1]

    def _starts(self, symbol: Symbol) -> frozenset[int]:
        """The offsets of a function's instructions."""
        self._code(symbol)
        return self._kept[2]

    def _at(self, address: int) -> Sequence[Symbol]:
        return self._by_address.get(address, ())

    @cached_property
    def _by_address(self) -> Mapping[int, Sequence[Symbol]]:
        found: defaultdict[int, list[Symbol]] = defaultdict(list)
        for each in self.kernel.symbols:
            if each.kind in ("func", "notype"):
                found[each.address].append(each)
        return found
