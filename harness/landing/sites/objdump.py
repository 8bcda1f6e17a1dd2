"""A second disassembler: binutils' objdump, for the text of instructions and to confirm their boundaries."""

from __future__ import annotations

import re
from pathlib import Path

from harness.core.architecture import Architecture
from harness.core.deadline import Deadline
from harness.core.process import run

_SECONDS = 60.0
# `ffffffff81000000:\tmov    %rsp,%rdi`; with --no-show-raw-insn one line is one instruction.
_LINE = re.compile(r"\s*([0-9a-f]+):\t(.+)")


def disassemble_range(file: Path, architecture: Architecture, start: int, end: int) -> dict[int, str]:
    """Map each address from `start` to before `end` at which objdump finds an instruction to its text.

    Empty if objdump cannot read the file. Raises HostError when it is not installed.
    """
    finished = run(
        [
            f"{architecture.cross_prefix}objdump",
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
