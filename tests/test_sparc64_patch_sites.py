"""The text that SPARC's kernel patches or writes by itself is known from its tables and symbols."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from harness.core.architecture_table import ARCHITECTURES
from harness.core.elf import Elf
from harness.landing.code import patch_tables
from harness.landing.code.patch_sites import LINKED, patch_sites
from harness.landing.code.patch_table_format import PatchTables
from harness.landing.code.patch_tables import jump_label_address_bytes
from harness.landing.layout import Layout
from harness.landing.sweep.documented_refusal_reasons import RefusalReasonFinder

PREFIX = ARCHITECTURES["sparc64"].cross_prefix
KERNEL = """
.text
.globl _stext, swapper_tsb, sparc64_ttable_tl0, kvmap_linear_patch, _etext
_stext:
nop
swapper_tsb:
.skip 64
sparc64_ttable_tl0:
one: nop
two: nop
nop
ticks: .skip 52
kvmap_linear_patch: nop
nop
_etext:
.data
.globl __start___jump_table, __stop___jump_table, __sun4v_1insn_patch, __sun4v_1insn_patch_end
.globl __get_tick_patch, __get_tick_patch_end
__start___jump_table:
.word one, 0, 0
__stop___jump_table:
__sun4v_1insn_patch:
.word two, 0x01000000
__sun4v_1insn_patch_end:
__get_tick_patch:
.word ticks
.skip 104
__get_tick_patch_end:
"""


@pytest.fixture
def vmlinux(tmp_path: Path) -> Elf:
    if shutil.which(f"{PREFIX}gcc") is None:
        pytest.skip(f"{PREFIX}gcc is not installed")
    source, made = tmp_path / "kernel.s", tmp_path / "vmlinux"
    source.write_text(KERNEL)
    options = ["-nostdlib", "-static", "-Wl,-e,_stext,-Ttext=0x404000,-Tdata=0x504000"]
    subprocess.run([f"{PREFIX}gcc", *options, "-o", made, source], check=True)
    return Elf.read(made)


def test_jump_labels_have_addresses_of_four_bytes(vmlinux: Elf) -> None:
    """The kernel refuses a probe on each."""
    image = SimpleNamespace(config={})
    layout = SimpleNamespace(kernel=vmlinux, slide=0, guest=SimpleNamespace(image=image))
    assert RefusalReasonFinder(cast("Layout", layout))._tables["jump label"] == {0x404044}
    assert jump_label_address_bytes("EM_ARM", 4) == 4
    assert jump_label_address_bytes("EM_MIPS", 8) == 8


def test_a_machine_without_jump_labels_has_no_table_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch_tables, "MACHINES", {"EM_VAX": PatchTables(tables=())})
    assert jump_label_address_bytes("EM_VAX", 4) == 4


def test_patched_and_written_text(vmlinux: Elf) -> None:
    sites = patch_sites(vmlinux)
    assert sites.known
    # Two words after the translations, 4 bytes each; 13 instructions; and the whole of kvmap_linear_patch, a word.
    written, ticks = range(4, 4 + 64 + 8), range(80, 80 + 52)
    assert set(sites.patched_offsets(LINKED, 0x404000, 200)) == {*written, *ticks, *range(132, 140)}
