"""Compares decoders of our own with capstone 6, word by word: flow of control and target of each instruction."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import capstone_listing
import locked_tools
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile

from harness.core.architecture import DecoderKind
from harness.core.elf import Elf
from harness.core.events import Bus
from harness.images import prepare
from harness.images.build_context import BuildContext
from harness.images.vm_recipe import load_all
from harness.landing.code import decode_superh
from harness.landing.code.decoder_machines import decoder_machines
from harness.landing.code.instruction import Flow, Instruction, InstructionKind

_SECONDS = 300.0
_ADDRESS = (1 << 64) - 1


class Effect(NamedTuple):
    """What an instruction does to the flow of control."""

    flow: Flow
    kind: InstructionKind
    target: int | None


def _own(found: Instruction) -> Effect:
    return Effect(found.flow, found.kind, found.target)


class Reference(NamedTuple):
    """How to have capstone list the code of a decoder, and how to read a line of its listing.

    `own` is what is compared of our own instruction, where it has more than the CPU's view. `decode` is our own decoder
    of words without what is around them, where the usual one distinguishes code from data.
    """

    architecture: str
    modes: str
    word_bytes: int
    effect: Callable[[str, str, bytes], Effect]
    own: Callable[[Instruction], Effect] = _own
    decode: Callable[[bytes], list[Instruction]] | None = None


PLAIN = Effect(Flow.PLAIN, InstructionKind.OTHER, None)
ENDS = Effect(Flow.ENDS, InstructionKind.OTHER, None)

_LONG_FORM = 5
_PARISC_CONDITIONAL = frozenset({"addb", "addib", "bb", "cmpb", "cmpib", "movb", "movib"})
_PARISC_CONDITIONS = frozenset({"=", "<", "<=", "<<", "<<=", "<>", ">=", ">", ">>=", ">>"}) | frozenset(
    {"tr", "od", "ev", "sv", "nsv", "uv", "nuv", "znv", "vnz", "sbz", "shz", "sdc", "sbc", "shc", "nbz", "nhz", "ndc"}
)


def _parisc(mnemonic: str, operands: str, word: bytes) -> Effect:
    name, *completers = mnemonic.split(",")
    last = operands.split(", ")[-1]
    if name in _PARISC_CONDITIONAL:
        return Effect(Flow.ENDS, InstructionKind.CONDITIONAL, int(last, 16))
    if name == "b":
        target, link = operands.split(", ")
        # The form with 22 bits always links to rp; capstone 6.0.0a11 prints r0.
        links = link != "r0" or word[2] >> 5 == _LONG_FORM
        return Effect(Flow.ENDS, InstructionKind.CALL if links else InstructionKind.JUMP, int(target, 16))
    if name == "be":
        return Effect(Flow.ENDS, InstructionKind.CALL if "l" in completers else InstructionKind.JUMP, None)
    if name == "bv" and operands == "r0(rp)":
        return Effect(Flow.ENDS, InstructionKind.LONE_RETURN if "n" in completers else InstructionKind.RETURN, None)
    if name == "bve":
        if "l" in completers:
            return Effect(Flow.ENDS, InstructionKind.CALL, None)
        if operands == "(rp)":
            return Effect(Flow.ENDS, InstructionKind.LONE_RETURN if "n" in completers else InstructionKind.RETURN, None)
    if name in ("bv", "blr", "bve"):
        return Effect(Flow.COMPUTED, InstructionKind.JUMP, None)
    if name in ("break", "rfi"):
        return ENDS
    # A condition of 64 bits has an asterisk before it; alone, the asterisk is "never". With "tc" it traps instead.
    on_condition = bool(_PARISC_CONDITIONS & {each.removeprefix("*") for each in completers})
    if name == "ftest" or "n" in completers or (on_condition and "tc" not in completers):
        return Effect(Flow.SKIPS, InstructionKind.SKIP, None)
    return PLAIN


_MIPS_CONDITIONAL = frozenset({"beq", "beqz", "bne", "bnez", "bgez", "bgtz", "blez", "bltz"})
# Of coprocessor 1; the kernel takes each of them for a branch.
_MIPS_TAKEN_FOR_BRANCHES = frozenset({"cfc1", "ctc1", "mfc1", "mtc1", "dmfc1", "dmtc1", "mfhc1", "mthc1"})


# Likely branches annul their delay slot if they are not taken; those that link do, too, but are calls.
_MIPS_ANNULLING = frozenset({"beql", "beqzl", "bnel", "bnezl", "bgezl", "bgtzl", "blezl", "bltzl", "bc1fl", "bc1tl"})


def _mips(mnemonic: str, operands: str, _: bytes) -> Effect:
    last = operands.split(", ")[-1]
    if mnemonic in _MIPS_CONDITIONAL:
        return Effect(Flow.ENDS, InstructionKind.CONDITIONAL, int(last, 16))
    if mnemonic in _MIPS_ANNULLING:
        return Effect(Flow.ENDS, InstructionKind.ANNULLING, int(last, 16))
    if mnemonic in ("b", "bal"):
        return Effect(Flow.ENDS, InstructionKind.JUMP if mnemonic == "b" else InstructionKind.CALL, int(last, 16))
    if mnemonic in ("j", "jal", "jalr"):  # The target of the first two depends on the address.
        return Effect(Flow.ENDS, InstructionKind.JUMP if mnemonic == "j" else InstructionKind.CALL, None)
    if mnemonic in ("jr", "jr.hb"):
        lone = operands == "$ra"
        flow = Flow.ENDS if lone else Flow.COMPUTED
        return Effect(flow, InstructionKind.RETURN if lone else InstructionKind.JUMP, None)
    if mnemonic in _MIPS_TAKEN_FOR_BRANCHES:
        return Effect(Flow.ENDS, InstructionKind.CONDITIONAL, None)
    return ENDS if mnemonic in ("break", "syscall", "eret", "deret") else PLAIN


def _target(operands: str) -> int | None:
    """Return the target of a branch, None if the last operand is no number; one before the start may have a sign."""
    last = operands.split(", ")[-1]
    return int(last, 16) & _ADDRESS if re.fullmatch(r"-?0x[0-9a-f]+", last) else None


_SPARC_TRAP = re.compile(r"t(?:a|n|n?e|[gl]e?|gu|leu|c[cs]|pos|neg|v[cs])")


def _sparc(mnemonic: str, operands: str, _: bytes) -> Effect:
    name, *completers = mnemonic.split(",")
    target = _target(operands)
    if name == "nop":
        return Effect(Flow.NOP, InstructionKind.OTHER, None)
    if name == "call":
        return Effect(Flow.ENDS, InstructionKind.CALL, None if "%" in operands else target)
    if name in ("ret", "retl", "rett", "return"):
        return Effect(Flow.ENDS, InstructionKind.RETURN, None)
    if name in ("jmp", "jmpl"):
        return Effect(Flow.COMPUTED, InstructionKind.JUMP, None)
    if name.startswith(("b", "fb")) and target is not None:
        return Effect(Flow.ENDS, _sparc_branch(name, annuls="a" in completers), target)
    return ENDS if name in ("done", "retry", "unimp", "illtrap") or _SPARC_TRAP.fullmatch(name) else PLAIN


def _sparc_branch(name: str, *, annuls: bool) -> InstructionKind:
    if name.removeprefix("f") in ("b", "ba", "bn"):
        return InstructionKind.LONE_JUMP if annuls else InstructionKind.JUMP
    if annuls:
        return InstructionKind.ANNULLING
    on_register = re.fullmatch(r"br(?:n?z|[gl]e?z)", name)
    return InstructionKind.CONDITIONAL_ON_REGISTER if on_register else InstructionKind.CONDITIONAL


def _own_sparc(found: Instruction) -> Effect:
    return Effect(found.flow, _without_slot(found), found.target)


def _own_mips(found: Instruction) -> Effect:
    """The instruction alone: delay slots, atomics and static branches are what the kernel makes of it."""
    if found.flow is Flow.NOP:
        return Effect(Flow.ENDS, InstructionKind.JUMP, found.target)
    depends = found.flow in (Flow.REFUSED, Flow.EXCLUSIVE, Flow.UNKNOWN)
    kind = _without_slot(found)
    alone = Flow.PLAIN if kind is InstructionKind.OTHER else Flow.ENDS
    return Effect(alone if depends else found.flow, kind, found.target)


def _without_slot(found: Instruction) -> InstructionKind:
    """What the instruction is, wherever it is: capstone does not mark delay slots."""
    return InstructionKind.OTHER if found.kind is InstructionKind.DELAY_SLOT else found.kind


_LOONGARCH_CONDITIONAL = frozenset({"beqz", "bnez", "bceqz", "bcnez"}) | frozenset(
    {"beq", "bne", "blt", "bge", "bltu", "bgeu", "bltz", "bgez", "blez", "bgtz"}
)


def _loongarch(mnemonic: str, operands: str, _: bytes) -> Effect:
    target = _target(operands)
    if mnemonic in _LOONGARCH_CONDITIONAL:
        return Effect(Flow.ENDS, InstructionKind.CONDITIONAL, target)
    if mnemonic in ("b", "bl"):
        return Effect(Flow.ENDS, InstructionKind.JUMP if mnemonic == "b" else InstructionKind.CALL, target)
    if mnemonic == "ret":
        return Effect(Flow.ENDS, InstructionKind.RETURN, None)
    if mnemonic == "jr" or (mnemonic == "jirl" and operands.startswith("$zero")):
        return Effect(Flow.COMPUTED, InstructionKind.JUMP, None)
    if mnemonic == "jirl":
        return Effect(Flow.ENDS, InstructionKind.CALL, None)
    if mnemonic == "nop":
        return Effect(Flow.NOP, InstructionKind.OTHER, None)
    return ENDS if mnemonic in ("break", "dbcl", "syscall", "hvcl", "ertn") else PLAIN


def _own_loongarch(found: Instruction) -> Effect:
    """The instruction alone: the kernel refuses atomics, and an exclusive range is more than one instruction."""
    alone = found.flow in (Flow.REFUSED, Flow.EXCLUSIVE)
    return Effect(Flow.PLAIN if alone else found.flow, found.kind, found.target)


_SUPERH_BRANCHES = {
    **dict.fromkeys(("bt", "bf", "bt/s", "bf/s"), InstructionKind.CONDITIONAL),
    **{"bra": InstructionKind.JUMP, "bsr": InstructionKind.CALL},
}


def _superh(mnemonic: str, operands: str, _: bytes) -> Effect:
    if mnemonic in _SUPERH_BRANCHES:
        return Effect(Flow.ENDS, _SUPERH_BRANCHES[mnemonic], int(operands, 16) & 0xFFFFFFFF)
    if mnemonic in ("jsr", "bsrf"):
        return Effect(Flow.ENDS, InstructionKind.CALL, None)
    if mnemonic in ("jmp", "braf"):
        return Effect(Flow.COMPUTED, InstructionKind.JUMP, None)
    if mnemonic == "rts":
        return Effect(Flow.ENDS, InstructionKind.RETURN, None)
    return ENDS if mnemonic in ("rte", "trapa") else PLAIN


_SUPERH_KINDS = {
    InstructionKind.BACKWARD_CONDITIONAL: InstructionKind.CONDITIONAL,
    InstructionKind.TAKEN_FOR_RETURN: InstructionKind.OTHER,
}


def _own_superh(found: Instruction) -> Effect:
    """The instruction alone: what the kernel takes it for is left out."""
    kind = _SUPERH_KINDS.get(found.kind, found.kind)
    return Effect(found.flow, kind, None if found.target is None else found.target & 0xFFFFFFFF)


def _superh_words(code: bytes) -> list[Instruction]:
    """Each word alone, because in a function the decoder distinguishes code from constants."""
    found = []
    for offset in range(0, len(code), 2):
        (each,) = decode_superh.decode(code[offset : offset + 2])
        found.append(each._replace(offset=offset, target=None if each.target is None else each.target + offset))
    return found


REFERENCES: Mapping[DecoderKind, Reference] = {
    DecoderKind.LOONGARCH: Reference("LOONGARCH", "LOONGARCH64", 4, _loongarch, _own_loongarch),
    DecoderKind.MIPS_BIG: Reference("MIPS", "MIPS64R2+BIG_ENDIAN", 4, _mips, _own_mips),
    DecoderKind.MIPS_LITTLE: Reference("MIPS", "MIPS64R2", 4, _mips, _own_mips),
    DecoderKind.PARISC: Reference("HPPA", "HPPA_20+BIG_ENDIAN", 4, _parisc),
    DecoderKind.SPARC: Reference("SPARC", "V9+BIG_ENDIAN", 4, _sparc, _own_sparc),
    DecoderKind.SUPERH: Reference("SH", "SH4", 2, _superh, _own_superh, decode=_superh_words),
}


class Comparison(NamedTuple):
    """How many words capstone knows, those that it does not, and a line for each disagreement."""

    known: int
    unknown: list[str]
    disagreements: list[str]


def compare(decoder: DecoderKind, code: bytes) -> Comparison:
    """Decode some code with both decoders. A capstone that cannot be installed fails the test."""
    reference = REFERENCES[decoder]
    decode = reference.decode or decoder_machines()[decoder].decode
    known, unknown, disagreements = 0, [], []
    for (mnemonic, operands), found in zip(_listing(reference, code), decode(code), strict=True):
        word = code[found.offset : found.end]
        if not mnemonic:
            unknown.append(word.hex())
            continue
        known += 1
        ours, other = _effect(found, reference), reference.effect(mnemonic, operands, word)
        if ours != other:
            disagreements.append(f"{word.hex()} at {found.offset:#x}, {mnemonic} {operands}: {ours}, capstone: {other}")
    return Comparison(known, unknown, disagreements)


def _effect(found: Instruction, reference: Reference) -> Effect:
    assert found.size == reference.word_bytes
    own = reference.own(found)
    # capstone prints a target before the start of the code as an unsigned number.
    return own._replace(target=None if own.target is None else own.target & _ADDRESS)


def _listing(reference: Reference, code: bytes) -> list[tuple[str, str]]:
    argv = [sys.executable, str(Path(capstone_listing.__file__)), *map(str, reference[:3])]
    done = subprocess.run(
        argv,
        input=code,
        capture_output=True,
        check=False,
        timeout=_SECONDS,
        env={"PYTHONPATH": str(locked_tools.directory_of_newest_capstone())},
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return [(name, operands) for name, operands in re.findall(r"^(.*)\t(.*)$", done.stdout.decode(), re.MULTILINE)]


def compare_kernel(vm: str) -> Comparison:
    """Build the VM's kernel if the store lacks it, and compare every word of its executable sections.

    A packaged kernel has one section of all that was in its image, so its text is compared.
    """
    recipe = load_all()[vm]
    vmlinux = prepare.prepare(recipe, BuildContext.in_cache(Bus()), probes=False).vmlinux
    decoder = recipe.architecture.kprobe_traits.decoder
    word = REFERENCES[decoder].word_bytes
    packaged = recipe.kernel.source == "debian-binary"
    codes = [_text(vmlinux, word)] if packaged else _executable_sections(vmlinux, word)
    parts = [compare(decoder, code) for code in codes]
    return Comparison(
        sum(part.known for part in parts),
        [word for part in parts for word in part.unknown],
        [line for part in parts for line in part.disagreements],
    )


def _text(vmlinux: Path, word_bytes: int) -> bytes:
    elf = Elf.read(vmlinux)
    return elf.bytes_at(elf.text_range.start, len(elf.text_range) // word_bytes * word_bytes)


def _executable_sections(vmlinux: Path, word_bytes: int) -> list[bytes]:
    """Return the whole words of each section that the CPU runs."""
    with vmlinux.open("rb") as file:
        found = [
            section.data()
            for section in ELFFile(file).iter_sections()
            if section["sh_flags"] & SH_FLAGS.SHF_EXECINSTR and section["sh_type"] != "SHT_NOBITS"
        ]
    return [code[: len(code) // word_bytes * word_bytes] for code in found]
