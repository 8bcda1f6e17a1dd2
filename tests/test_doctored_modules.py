"""A doctored module file differs in one place only; a place that cannot be found is reported."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

import pytest

from harness.core.elf import Elf
from harness.core.errors import PinpointError
from harness.pinning import doctored_modules

SOURCE = """
static const char vermagic[] __attribute__((used, section(".modinfo"))) = "vermagic=6.1 SMP mod_unload ";
int pinpoint_leaf(int x) { return x + 1; }
int pinpoint_calls(int x) { return pinpoint_leaf(x) * 2; }
"""


@pytest.fixture(scope="session")
def module(tmp_path_factory: pytest.TempPathFactory) -> Elf:
    directory = tmp_path_factory.mktemp("doctored")
    (directory / "module.c").write_text(SOURCE)
    subprocess.run(["gcc", "-O1", "-ffunction-sections", "-c", "module.c"], cwd=directory, check=True)
    subprocess.run(["ld", "-r", "--build-id=sha1", "-o", "module.ko", "module.o"], cwd=directory, check=True)
    return Elf.read(directory / "module.ko")


def read(content: bytes, directory: Path) -> Elf:
    path = directory / "doctored.ko"
    path.write_bytes(content)
    return Elf.read(path)


def changed(module: Elf, content: bytes) -> int:
    """Return how many bytes differ in two files of equal length."""
    return sum(one != other for one, other in zip(module.path.read_bytes(), content, strict=True))


def test_another_build_id(module: Elf, tmp_path: Path) -> None:
    content = doctored_modules.with_another_build_id(module)
    other = read(content, tmp_path)
    assert len(other.build_id) == len(module.build_id) == 40
    assert other.build_id != module.build_id
    assert changed(module, content) == 20


def test_another_kernel(module: Elf) -> None:
    content = doctored_modules.for_another_kernel(module)
    assert b"vermagic=6.1 SMP mod_reload " in content
    assert changed(module, content) == 2


def test_another_machine(module: Elf, tmp_path: Path) -> None:
    content = doctored_modules.for_another_machine(module)
    assert read(content, tmp_path).machine != module.machine
    assert changed(module, content) == 2


def test_two_sections_of_one_name(module: Elf, tmp_path: Path) -> None:
    other = read(doctored_modules.with_two_sections_of_one_name(module), tmp_path)
    assert module.duplicated_section_names == frozenset()
    assert other.duplicated_section_names == {".text.pinpoint_leaf"}
    assert Counter(section.name for section in other.allocated_sections)[".text.pinpoint_leaf"] == 2


def test_larger_sections_begin_as_before(module: Elf, tmp_path: Path) -> None:
    names = (".bss", ".text.pinpoint_calls", ".text.pinpoint_leaf")
    other = read(doctored_modules.with_larger_sections(module, names, 4096), tmp_path)
    sizes = {each.name: each.size + 4096 * (each.name in names) for each in module.allocated_sections}
    assert {each.name: each.size for each in other.allocated_sections} == sizes
    for name in names[1:]:
        content = module.section_bytes(name, 0, module.sections_by_name[name].size)
        assert other.section_bytes(name, 0, sizes[name]) == content + bytes(4096)


def test_half_a_module_is_none(module: Elf, tmp_path: Path) -> None:
    content = doctored_modules.truncated(module)
    assert module.path.read_bytes().startswith(content)
    with pytest.raises(PinpointError):
        read(content, tmp_path).symbols  # noqa: B018


def test_what_is_not_there_cannot_be_changed(module: Elf, tmp_path: Path) -> None:
    twice = read(module.path.read_bytes() + b"mod_unload", tmp_path)
    with pytest.raises(ValueError, match="has 2 times"):
        doctored_modules.for_another_kernel(twice)
