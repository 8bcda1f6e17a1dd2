"""A call of the tracer that objtool has replaced by a nop, as in a kernel of clang's LTO, is ftrace's site."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.core.architecture import DecoderKind
from harness.core.elf import Elf
from harness.landing.code.instructions import ftrace_site_offset, once_per_call_boundaries

_SOURCE = """
.text
.globl f
.type f, @function
f:
    endbr64
1:  .byte 0x0f, 0x1f, 0x44, 0, 0
    mov %edi, %eax
    shl $13, %eax
    ret
.size f, . - f
"""
_TABLE = '.section __mcount_loc, "a"\n.quad 1b\n'


@pytest.mark.parametrize(
    ("table", "site", "line"), [(_TABLE, 4, (0, 4, 9, 11)), ("", None, (0,))], ids=["traced", "static-key"]
)
def test_only_a_nop_in_the_table_of_ftrace_is_its_site(
    tmp_path: Path, table: str, site: int | None, line: tuple[int, ...]
) -> None:
    (tmp_path / "f.S").write_text(_SOURCE + table)
    subprocess.run(["x86_64-linux-gnu-gcc", "-c", "f.S", "-o", "f.ko"], cwd=tmp_path, check=True)
    elf = Elf.read(tmp_path / "f.ko")
    function = elf.function("f")
    assert ftrace_site_offset(elf, function, DecoderKind.X86_64) == site
    assert once_per_call_boundaries(elf, function, DecoderKind.X86_64) == line
