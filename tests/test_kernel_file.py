"""The names in a vmlinux are those that the kernel looks up: without clang's suffix if the kernel omits it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from harness.core.elf import Elf
from harness.images.image import Image
from harness.landing.code.kernel_file import kernel_file, name_in_kallsyms

_SOURCE = """
.text
.globl f.llvm.123
.type f.llvm.123, @function
f.llvm.123: ret
.size f.llvm.123, 1
.type f, @function
f: ret
.size f, 1
.type g.cold, @function
g.cold: ret
.size g.cold, 1
"""


@pytest.fixture
def vmlinux(tmp_path: Path) -> Path:
    """Return an ELF file with a suffix, a name that another symbol has with a suffix, and a suffix of gcc."""
    (tmp_path / "f.S").write_text(_SOURCE)
    subprocess.run(["gcc", "-c", "f.S", "-o", "vmlinux"], cwd=tmp_path, check=True)
    return tmp_path / "vmlinux"


def image(vmlinux: Path, *, omitted: bool) -> Image:
    traits = SimpleNamespace(llvm_suffixes_omitted=omitted)
    return cast("Image", SimpleNamespace(vmlinux=vmlinux, recipe=SimpleNamespace(traits=traits)))


def test_a_kernel_that_omits_the_suffix_has_two_functions_of_one_name(vmlinux: Path) -> None:
    found = kernel_file(image(vmlinux, omitted=True))
    assert sorted(each.address for each in found.symbols_named("f")) == [0, 1]
    assert found.symbols_named("f.llvm.123") == []
    assert [each.address for each in found.symbols_named("g.cold")] == [2]
    assert kernel_file(image(vmlinux, omitted=True)) is found
    # The file itself is read as it is.
    assert [each.address for each in Elf.read_cached(vmlinux).symbols_named("f.llvm.123")] == [0]


def test_another_kernel_finds_whole_names(vmlinux: Path) -> None:
    found = kernel_file(image(vmlinux, omitted=False))
    assert [each.address for each in found.symbols_named("f")] == [1]
    assert [each.address for each in found.symbols_named("f.llvm.123")] == [0]


def test_the_name_of_a_line_of_kallsyms(vmlinux: Path) -> None:
    assert name_in_kallsyms(image(vmlinux, omitted=True), "f.llvm.123") == "f"
    assert name_in_kallsyms(image(vmlinux, omitted=False), "f.llvm.123") == "f.llvm.123"
    assert name_in_kallsyms(image(vmlinux, omitted=True), "f.cold") == "f.cold"
