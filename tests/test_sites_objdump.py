"""The second disassembler of `sites` confirms instructions, and no data that it prints in their places."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from harness.core.architecture_table import ARCHITECTURES
from harness.landing.sites.objdump import disassemble_range, is_instruction

MIPS = ARCHITECTURES["mips64el"]
# Where a 64-bit ELF file has e_flags.
FLAGS_AT = 48


@pytest.mark.parametrize("text", ["daddiu sp,sp,-64", "ret", "c.nop"])
def test_an_instruction_is_confirmed(text: str) -> None:
    assert is_instruction(text)


@pytest.mark.parametrize(
    "text",
    ["", ".word 0x67bdffc0", ".inst 0x00000001 ; undefined", ".long 0x0", "(bad)", "; <UNDEFINED> instruction: 0xf7f0"],
)
def test_data_is_not_confirmed(text: str) -> None:
    assert not is_instruction(text)


def test_a_64_bit_mips_file_without_flags_is_decoded(tmp_path: Path) -> None:
    """As a vmlinux that was recovered from a packaged kernel."""
    compiler = f"{MIPS.cross_prefix}gcc"
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    source, made = tmp_path / "code.s", tmp_path / "code.o"
    source.write_text(".set noreorder\ndaddiu $sp, $sp, -64\ndext $v0, $v0, 0, 8\njr $ra\nnop\n")
    subprocess.run([compiler, "-march=mips64r2", "-c", "-o", made, source], check=True)
    content = bytearray(made.read_bytes())
    content[FLAGS_AT : FLAGS_AT + 4] = bytes(4)
    made.write_bytes(content)
    found = disassemble_range(made, MIPS, 0, 12)
    assert [text.split()[0] for text in found.values()] == ["daddiu", "dext", "jr"]
