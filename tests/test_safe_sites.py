"""A site is safe to probe if nothing replaces its instruction, or the next one, on which a mutant puts its probe."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.core.architecture_table import ARCHITECTURES
from harness.core.elf import Elf
from harness.core.elf_symbols_and_relocations import Symbol
from harness.landing.checks.classify_address import AddressClassifier
from harness.landing.site import Site

SLIDE = 0x200000
# The kernel replaces the third instruction of `f`. At run time it can be a return.
KERNEL = """\
        .text
        .globl _stext, f, g, _etext
        .type f, @function
        .type g, @function
_stext:
f:      endbr64
        push %rax
        push %rbx
alt:    mov %rax, %rbx
        pop %rbx
        pop %rax
        ret
        .size f, . - f
g:      ret
        .size g, . - g
_etext:
        .data
__alt_instructions:
        .long alt - ., g - .
        .word 3
        .byte 3, 1
__alt_instructions_end:
"""
PUSH_RAX, PUSH_RBX, REPLACED, POP_RBX, POP_RAX, RET = 4, 5, 6, 9, 10, 11


def places(tmp_path: Path, text: str, blacklist: list[tuple[int, int]]) -> AddressClassifier:
    """Return the classifier of a kernel that puts a probe on an entry after its landing pad."""
    source, object_file, linked = (tmp_path / f"kernel.{kind}" for kind in ("S", "o", "elf"))
    source.write_text(text)
    subprocess.run(["x86_64-linux-gnu-gcc", "-c", source, "-o", object_file], check=True)
    subprocess.run(["x86_64-linux-gnu-ld", "-e", "f", "-Ttext=0x401000", object_file, "-o", linked], check=True)
    elf, pad = Elf.read(linked), {"f": PUSH_RAX, "g": 0}

    def address(symbol: Symbol, _: str) -> int:
        return symbol.address + SLIDE

    layout: Any = SimpleNamespace(
        guest=SimpleNamespace(architecture=ARCHITECTURES["x86_64"]),
        kernel=elf,
        slide=SLIDE,
        targets={},
        symbol_address=address,
        elf_and_symbol=lambda site: (elf, elf.function(site.symbol)),
        probe_address=lambda site: address(elf.function(site.symbol), "") + (site.offset or pad[site.symbol]),
    )
    found = AddressClassifier(layout)
    found.__dict__["_blacklist"] = blacklist
    return found


@pytest.mark.parametrize(
    ("offset", "safe"), [(0, True), (PUSH_RAX, True), (PUSH_RBX, False), (REPLACED, False), (POP_RBX, True)]
)
def test_what_the_kernel_replaces_is_not_safe(tmp_path: Path, offset: int, safe: bool) -> None:
    assert places(tmp_path, KERNEL, []).is_site_safe_to_probe(Site("f", offset)) is safe


def test_the_same_code_is_safe_where_the_kernel_replaces_nothing(tmp_path: Path) -> None:
    without = KERNEL.replace("        .long alt - ., g - .\n        .word 3\n        .byte 3, 1\n", "")
    found = places(tmp_path, without, [])
    assert [found.is_site_safe_to_probe(Site("f", offset)) for offset in (PUSH_RBX, REPLACED)] == [True, True]


def test_no_site_before_a_return_or_on_one_or_on_the_blacklist(tmp_path: Path) -> None:
    found = places(tmp_path, KERNEL, [(0x401000 + SLIDE + PUSH_RAX, 0x401000 + SLIDE + PUSH_RBX)])
    sites = [Site("f", offset) for offset in (PUSH_RAX, POP_RAX, RET)]
    assert [found.is_site_safe_to_probe(site) for site in [*sites, Site("g")]] == [False] * 4
