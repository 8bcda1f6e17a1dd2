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
from harness.core.events import Bus
from harness.images import prepare
from harness.images.build_context import BuildContext
from harness.images.vm_recipe import load_all
from harness.landing.code.decoder_machines import decoder_machines
from harness.landing.code.instruction import Flow, Instruction, InstructionKind

_SECONDS = 300.0


class Effect(NamedTuple):
    """What an instruction does to the flow of control."""

    flow: Flow
    kind: InstructionKind
    target: int | None


class Reference(NamedTuple):
    """How to have capstone list the code of a decoder, and how to read a line of its listing."""

    architecture: str
    modes: str
    word_bytes: int
    effect: Callable[[str, str], Effect]


PLAIN = Effect(Flow.PLAIN, InstructionKind.OTHER, None)
ENDS = Effect(Flow.ENDS, InstructionKind.OTHER, None)

_PARISC_CONDITIONAL = frozenset({"addb", "addib", "bb", "cmpb", "cmpib", "movb", "movib"})
_PARISC_CONDITIONS = frozenset({"=", "<", "<=", "<<", "<<=", "<>", ">=", ">", ">>=", ">>"}) | frozenset(
    {"tr", "od", "ev", "sv", "nsv", "uv", "nuv", "znv", "vnz", "sbz", "shz", "sdc", "sbc", "shc", "nbz", "nhz", "ndc"}
)


def _parisc(mnemonic: str, operands: str) -> Effect:
    name, *completers = mnemonic.split(",")
    last = operands.split(", ")[-1]
    if name in _PARISC_CONDITIONAL:
        return Effect(Flow.ENDS, InstructionKind.CONDITIONAL, int(last, 16))
    if name == "b":
        target, link = operands.split(", ")
        return Effect(Flow.ENDS, InstructionKind.JUMP if link == "r0" else InstructionKind.CALL, int(target, 16))
    if name == "be":
        return Effect(Flow.ENDS, InstructionKind.CALL if "l" in completers else InstructionKind.JUMP, None)
    if name == "bv" and operands == "r0(rp)":
        return Effect(Flow.ENDS, InstructionKind.LONE_RETURN if "n" in completers else InstructionKind.RETURN, None)
    if name in ("bv", "blr"):
        return Effect(Flow.COMPUTED, InstructionKind.JUMP, None)
    if name in ("break", "rfi"):
        return ENDS
    # A condition of 64 bits has an asterisk before it; alone, the asterisk is "never". With "tc" it traps instead.
    on_condition = bool(_PARISC_CONDITIONS & {each.removeprefix("*") for each in completers})
    if name == "ftest" or "n" in completers or (on_condition and "tc" not in completers):
        return Effect(Flow.SKIPS, InstructionKind.SKIP, None)
    return PLAIN


REFERENCES: Mapping[DecoderKind, Reference] = {
    DecoderKind.PARISC: Reference("HPPA", "HPPA_20+BIG_ENDIAN", 4, _parisc),
}


class Comparison(NamedTuple):
    """How many words capstone knows, those that it does not, and a line for each disagreement."""

    known: int
    unknown: list[str]
    disagreements: list[str]


def compare(decoder: DecoderKind, code: bytes) -> Comparison:
    """Decode some code with both decoders. A capstone that cannot be installed fails the test."""
    reference = REFERENCES[decoder]
    known, unknown, disagreements = 0, [], []
    for (mnemonic, operands), found in zip(
        _listing(reference, code), decoder_machines()[decoder].decode(code), strict=True
    ):
        word = code[found.offset : found.end].hex()
        if not mnemonic:
            unknown.append(word)
            continue
        known += 1
        ours, other = _effect(found, reference.word_bytes), reference.effect(mnemonic, operands)
        if ours != other:
            disagreements.append(f"{word} at {found.offset:#x}, {mnemonic} {operands}: {ours}, capstone: {other}")
    return Comparison(known, unknown, disagreements)


def _effect(found: Instruction, word_bytes: int) -> Effect:
    assert found.size == word_bytes
    # capstone prints a target before the start of the code as an unsigned number.
    return Effect(found.flow, found.kind, None if found.target is None else found.target & 0xFFFFFFFFFFFFFFFF)


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
    """Build the VM's kernel if the store lacks it, and compare every word of its executable sections."""
    recipe = load_all()[vm]
    vmlinux = prepare.prepare(recipe, BuildContext.in_cache(Bus()), probes=False).vmlinux
    decoder = recipe.architecture.kprobe_traits.decoder
    parts = [compare(decoder, code) for code in _executable_sections(vmlinux, REFERENCES[decoder].word_bytes)]
    return Comparison(
        sum(part.known for part in parts),
        [word for part in parts for word in part.unknown],
        [line for part in parts for line in part.disagreements],
    )


def _executable_sections(vmlinux: Path, word_bytes: int) -> list[bytes]:
    """Return the whole words of each section that the CPU runs."""
    with vmlinux.open("rb") as file:
        found = [
            section.data()
            for section in ELFFile(file).iter_sections()
            if section["sh_flags"] & SH_FLAGS.SHF_EXECINSTR and section["sh_type"] != "SHT_NOBITS"
        ]
    return [code[: len(code) // word_bytes * word_bytes] for code in found]
