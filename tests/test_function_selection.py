"""Functions in whose code a probe hangs the CPU are left out of those that are probed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from harness.core.architecture_table import ARCHITECTURES
from harness.core.elf import Elf
from harness.landing.code.function_selection import text_functions_named_once

_FUNCTION = ".globl {0}\n.type {0}, %function\n{0}:\nnop\nnop\n.size {0}, .-{0}\n"


@pytest.mark.parametrize(("architecture", "found"), [("sparc64", ["after"]), ("arm64", ["trap", "after"])])
def test_code_of_traps_is_left_out(tmp_path: Path, architecture: str, found: list[str]) -> None:
    """SPARC's is between _stext and swapper_tsb."""
    prefix = ARCHITECTURES[architecture].cross_prefix
    if shutil.which(f"{prefix}gcc") is None:
        pytest.skip(f"{prefix}gcc is not installed")
    source, made = tmp_path / "kernel.s", tmp_path / "vmlinux"
    trap, after = (_FUNCTION.format(name) for name in ("trap", "after"))
    source.write_text(f".text\n.globl _stext, swapper_tsb, _etext\n_stext:\n{trap}swapper_tsb:\n{after}_etext:\n")
    subprocess.run([f"{prefix}gcc", "-nostdlib", "-static", "-Wl,-e,_stext", "-o", made, source], check=True)
    assert [each.name for each in text_functions_named_once(Elf.read(made))] == found
