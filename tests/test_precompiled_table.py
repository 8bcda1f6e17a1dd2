"""The generated table of a precompiled probe has build-id, sections and offsets, and no symbol of a target."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.core import paths
from harness.core.elf import Elf
from harness.core.errors import BuildError, PinpointError
from harness.images import precompiled_table
from harness.images.precompiled_table import SourcePlace

HEADERS = paths.PROBES / precompiled_table.DIRECTORY
SOURCE = """\
int elsewhere(int x) { return x + 7; }
int secret_function(int x)
{
	x *= 3;
	return x ^ 0x5a;
}
"""
SECTION = ".text.secret_function"


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory of a target that was built with a section for each function; it has one place."""
    (tmp_path / "shape.c").write_text(SOURCE)
    compile_it(tmp_path, "shape.c", "shape.o", "-g", "-O1", "-ffunction-sections")
    subprocess.run(["ld", "-r", "--build-id=sha1", "shape.o", "-o", "shape.ko"], cwd=tmp_path, check=True)
    monkeypatch.setattr(paths, "PROBES", tmp_path)
    place = SourcePlace("secret_function", "shape.c", "return x ^ 0x5a;")
    monkeypatch.setattr(precompiled_table, "PLACES", {"shape": (place,)})
    return tmp_path


def compile_it(directory: Path, source: str, made: str, *flags: str) -> None:
    subprocess.run(["gcc", "-Wall", "-Werror", *flags, "-c", source, "-o", made], cwd=directory, check=True)


def compiled(directory: Path, *flags: str) -> bytes:
    """Generate the table, compile it as a module would, and return the object's content."""
    precompiled_table.write_c_table(directory, directory)
    (directory / "linux").mkdir(exist_ok=True)
    (directory / "linux/kernel.h").write_text("#define ARRAY_SIZE(list) (sizeof(list) / sizeof((list)[0]))\n")
    compile_it(directory, precompiled_table.TABLE, "table.o", f"-I{HEADERS}", "-I.", *flags)
    return (directory / "table.o").read_bytes()


def test_the_probe_has_no_symbol_of_its_target(target: Path) -> None:
    content = compiled(target)
    assert Elf.read(target / "shape.ko").build_id.encode() in content
    assert SECTION.encode() in content
    assert b"secret_function" not in content.replace(SECTION.encode(), b"")
    assert b"elsewhere" not in content


def test_the_place_is_section_and_offset(target: Path) -> None:
    compiled(target)
    found = precompiled_table.PLACES["shape"][0].locate(Elf.read(target / "shape.ko"))
    text = (target / precompiled_table.TABLE).read_text()
    assert (found.section, f"{{ 0, {found.offset:#x} }}" in text) == (SECTION, True)


def test_with_symbols_it_has_every_function(target: Path) -> None:
    content = compiled(target, "-DPINPOINT_WITH_SYMBOLS")
    assert b"elsewhere" in content
    assert b"secret_function" in content.replace(SECTION.encode(), b"")


def test_a_target_without_a_build_id(target: Path) -> None:
    subprocess.run(["ld", "-r", "shape.o", "-o", "shape.ko"], cwd=target, check=True)
    with pytest.raises(BuildError, match="no build-id"):
        precompiled_table.write_c_table(target, target)


def test_a_place_that_the_build_lacks(target: Path) -> None:
    (target / "shape.c").write_text(SOURCE.replace("0x5a", "0x5b"))
    with pytest.raises(PinpointError, match="0 lines have"):
        precompiled_table.write_c_table(target, target)
