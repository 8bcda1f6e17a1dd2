"""An ordinary module becomes a live patch: its symbols and relocations, as readelf and the harness read them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.core.elf import Elf
from harness.core.errors import PinpointError
from harness.landing.livepatch_relocations import LivePatchSymbol, with_livepatch_relocations

_SOURCE = """
.section .text.new, "ax", @progbits
.globl new
.type new, @function
new:
    call twin_placeholder
    call printk
    movzbl banner_placeholder(%rip), %eax
    jmp twin_placeholder
.size new, . - new
"""
_MEANT = {
    "twin_placeholder": LivePatchSymbol("target", "twin", 2),
    "banner_placeholder": LivePatchSymbol("vmlinux", "linux_banner"),
}


@pytest.fixture
def built(tmp_path: Path) -> Elf:
    (tmp_path / "new.S").write_text(_SOURCE)
    subprocess.run(["x86_64-linux-gnu-gcc", "-c", "new.S", "-o", "new.ko"], cwd=tmp_path, check=True)
    return Elf.read(tmp_path / "new.ko")


def listing(path: Path, *options: str) -> str:
    words = ["readelf", "--wide", *options, str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "Warning" not in done.stderr + done.stdout
    return done.stdout


def test_each_object_has_a_section_of_its_relocations(built: Elf, tmp_path: Path) -> None:
    made = tmp_path / "made.ko"
    made.write_bytes(with_livepatch_relocations(built, _MEANT))
    headers = {line.split("]")[1].split()[0]: line for line in listing(made, "-S").splitlines() if ".klp" in line}
    assert set(headers) == {".klp.rela.target..text.new", ".klp.rela.vmlinux..text.new"}
    # Allocated, with the section that they change, and with the flag of a live patch (SHF_RELA_LIVEPATCH).
    assert all("RELA" in line and "AIo" in line for line in headers.values())
    moved = listing(made, "-r")
    assert moved.count(".klp.sym.target.twin,2") == 2
    assert moved.count(".klp.sym.vmlinux.linux_banner,0") == 1
    assert moved.count("R_X86_64_NONE") == 3
    assert moved.count("printk") == 1
    symbols = listing(made, "-s")
    # 0xff20 is SHN_LIVEPATCH.
    assert symbols.count("OS [0xff20]") == 2
    assert "placeholder" not in symbols
    elf = Elf.read(made)
    assert elf.function_bytes(elf.function("new")) == built.function_bytes(built.function("new"))
    changed = elf.relocated_positions_within_range(".text.new", 0, 22)
    assert changed == built.relocated_positions_within_range(".text.new", 0, 22)


@pytest.mark.parametrize(
    ("meant", "complaint"),
    [
        ({"absent": LivePatchSymbol("vmlinux", "x")}, "has no symbol absent"),
        ({"new": LivePatchSymbol("vmlinux", "x")}, "defines what .klp.sym.vmlinux.x,0 is to stand for"),
    ],
)
def test_a_symbol_that_cannot_be_replaced_is_reported(
    built: Elf, meant: dict[str, LivePatchSymbol], complaint: str
) -> None:
    with pytest.raises(PinpointError, match=complaint):
        with_livepatch_relocations(built, meant)
