"""A second disassembler: binutils' objdump, for the text of instructions and to confirm their boundaries."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from harness.core.architecture import Architecture
from harness.core.deadline import Deadline
from harness.core.process import run

_SECONDS = 60.0
# `ffffffff81000000:\tmov    %rsp,%rdi`; with --no-show-raw-insn one line is one instruction.
_LINE = re.compile(r"\s*([0-9a-f]+):\t(.+)")
# What objdump prints where it decodes no instruction: `.word 0x67bdffc0`, `(bad)`, on ARM `; <UNDEFINED> instruction`.
_DATA = re.compile(r"\.|\(bad\)|;")
# The processors of kernels, by ELF machine and word size, where objdump's own choice lacks instructions. It reads the
# processor from e_flags, which are 0 in an ELF file that was recovered from a packaged kernel.
_PROCESSORS: Mapping[tuple[str, int], str] = MappingProxyType({("EM_MIPS", 8): "mips:isa64r2"})


def disassemble_range(file: Path, architecture: Architecture, start: int, end: int) -> dict[int, str]:
    """Map each address from `start` to before `end` at which objdump finds an instruction or data to its text.

    Empty if objdump cannot read the file. Raises HostError when it is not installed.
    """
    processor = _PROCESSORS.get((architecture.elf_machine, architecture.word_bytes))
    finished = run(
        [
            f"{architecture.cross_prefix}objdump",
            *(("-m", processor) if processor else ()),
            "-d",
            "--no-show-raw-insn",
            f"--start-address={start:#x}",
            f"--stop-address={end:#x}",
            file,
        ],
        deadline=Deadline.after(_SECONDS),
        env={"LC_ALL": "C"},
    )
    if finished.rc != 0:
        return {}
    found = (_LINE.match(line) for line in finished.output.splitlines())
    return {int(each[1], 16): " ".join(each[2].split()) for each in found if each}


def is_instruction(text: str) -> bool:
    """Return True for the text of an instruction; False for that of data, and for an empty one."""
    return bool(text) and not _DATA.match(text)
