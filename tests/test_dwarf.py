"""A source line in a module becomes section + offset by its DWARF line table; another build or no table is refused.

The modules are compiled here, for every architecture whose compiler is installed. A label in the source shows where a
line really is; labels are in the symbol table and do not depend on DWARF.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from harness.core import line_table, source_line_to_offset
from harness.core.architecture_table import ARCHITECTURES
from harness.core.elf import Elf
from harness.core.errors import PinpointError
from harness.landing.layout import Layout
from harness.landing.mutants import MUTANTS
from harness.landing.precompiled_sites import OtherBuildError, PrecompiledSite, request_by_section
from harness.landing.site import Site
from harness.landing.target import Target

ONE = """\
#include "common.h"
int first(int x)
{
	x = mixed(x);
	MARK(first_mark);
	return x - 1;
}
/* nothing here */
static int second(int x)
{
	MARK(second_mark);
	return mixed(x);
}
int (*kept)(int) = second;
"""
TWO = """\
#include "common.h"
__attribute__((section(".text.apart"))) int third(int x)
{
	MARK(third_mark);
	return mixed(x) * 2;
}
"""
COMMON = """\
#define MARK(name) __asm__ volatile(".globl " #name "\\n" #name ":")
static inline __attribute__((always_inline)) int mixed(int x)
{
	__asm__ volatile("nop");
	return x * 3;
}
"""
NATIVE = next(name for name, architecture in ARCHITECTURES.items() if architecture.native)
Build = Callable[..., Elf]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Return a function that compiles the sources for an architecture into a relocatable file, as kbuild does."""

    def module(*flags: str, arch: str = NATIVE, strip: str = "", name: str = "module.ko") -> Elf:
        prefix = ARCHITECTURES[arch].cross_prefix
        if not shutil.which(f"{prefix}gcc"):
            pytest.skip(f"no {prefix}gcc")
        (tmp_path / "common.h").write_text(COMMON)
        objects = []
        for source, text in {"one.c": ONE, "two.c": TWO}.items():
            (tmp_path / source).write_text(text)
            objects.append(f"{source}.o")
            common = ["-O1", "-ffreestanding", "-fno-pic", *ARCHITECTURES[arch].program_flags]
            compiler = [f"{prefix}gcc", *common, *(flags or ["-g"]), "-c", source]
            subprocess.run([*compiler, "-o", objects[-1]], cwd=tmp_path, check=True)
        subprocess.run([f"{prefix}ld", "-r", "--build-id=sha1", *objects, "-o", name], cwd=tmp_path, check=True)
        if strip:
            subprocess.run([f"{prefix}strip", strip, name], cwd=tmp_path, check=True)
        return Elf.read(tmp_path / name)

    return module


def number(source: str, text: str) -> int:
    return next(index for index, line in enumerate(source.splitlines(), 1) if text in line)


@pytest.mark.parametrize("flags", [["-gdwarf-4"], ["-gdwarf-5"], ["-g", "-ffunction-sections"], ["-g", "-gz"]], ids=str)
@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
def test_a_line_is_where_its_label_is(build: Build, arch: str, flags: list[str]) -> None:
    elf = build(*flags, arch=arch)
    for file, source, function in ("one.c", ONE, "first"), ("one.c", ONE, "second"), ("two.c", TWO, "third"):
        found = source_line_to_offset.find_source_line(elf, file, number(source, f"MARK({function}_mark)"))
        label, start = elf.symbols_named(f"{function}_mark")[0], elf.function(function)
        assert (found.section, found.offset) == (label.section, label.address)
        assert (found.function, found.function_offset) == (function, label.address - start.address)


def test_a_line_of_an_executable(build: Build, tmp_path: Path) -> None:
    build("-g")
    objects = ["one.c.o", "two.c.o"]
    subprocess.run(["ld", "-static", "--entry=first", *objects, "-o", "linked"], cwd=tmp_path, check=True)
    elf = Elf.read(tmp_path / "linked")
    found = source_line_to_offset.find_source_line(elf, "two.c", number(TWO, "MARK(third_mark)"))
    label = elf.symbols_named("third_mark")[0]
    assert (found.section, found.offset) == (label.section, elf.offset_in_section(label))
    assert (found.function, found.function_offset) == ("third", label.address - elf.function("third").address)


def test_an_inlined_line_needs_its_function(build: Build) -> None:
    elf = build("-g")
    line = number(COMMON, "return x * 3")
    assert {
        each.function for each in source_line_to_offset.find_source_line_in_each_function(elf, "common.h", line)
    } == {
        "first",
        "second",
        "third",
    }
    assert source_line_to_offset.find_source_line(elf, "common.h", line, "third").section == ".text.apart"
    with pytest.raises(
        PinpointError, match=r"module\.ko: common\.h:5 has code in 3 functions; name one of second, first, third"
    ):
        source_line_to_offset.find_source_line(elf, "common.h", line)
    with pytest.raises(PinpointError, match=r"has no code in fourth; it has code in second, first, third"):
        source_line_to_offset.find_source_line(elf, "common.h", line, "fourth")


def test_as_much_of_the_path_as_is_given(build: Build, tmp_path: Path) -> None:
    elf = build("-g", f"-ffile-prefix-map={tmp_path}=far/away")
    line = number(TWO, "MARK(third_mark)")
    assert source_line_to_offset.find_source_line(elf, "away/two.c", line) == source_line_to_offset.find_source_line(
        elf, "two.c", line
    )
    with pytest.raises(PinpointError, match=r"its line table names no near/two\.c; it has far/away/common\.h, far/"):
        source_line_to_offset.find_source_line(elf, "near/two.c", line)
    with pytest.raises(PinpointError, match=r"names no wo\.c"):
        source_line_to_offset.find_source_line(elf, "wo.c", line)


def test_two_files_of_a_name(tmp_path: Path) -> None:
    for directory in "a", "b":
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "same.c").write_text(f"int in_{directory}(int x)\n{{\n\treturn x + 1;\n}}\n")
        compile_it = ["gcc", "-g", "-O1", "-c", f"{directory}/same.c", "-o", f"{directory}.o"]
        subprocess.run(compile_it, cwd=tmp_path, check=True)
    subprocess.run(["ld", "-r", "a.o", "b.o", "-o", "both.ko"], cwd=tmp_path, check=True)
    elf = Elf.read(tmp_path / "both.ko")
    assert source_line_to_offset.find_source_line(elf, "b/same.c", 3).function == "in_b"
    with pytest.raises(PinpointError, match=r"several files are same\.c; name one of .*a/same\.c, .*b/same\.c"):
        source_line_to_offset.find_source_line(elf, "same.c", 3)


def test_a_line_without_code(build: Build) -> None:
    with pytest.raises(PinpointError, match=r"module\.ko: one\.c:8 has no code; the nearest line with code is [67]$"):
        source_line_to_offset.find_source_line(build("-g"), "one.c", number(ONE, "nothing here"))


@pytest.mark.parametrize(("flags", "strip"), [(["-O1"], ""), (["-g"], "-g")], ids=["built-without", "stripped"])
def test_no_dwarf(build: Build, flags: list[str], strip: str) -> None:
    with pytest.raises(PinpointError, match=r"module\.ko: no DWARF line table; build it with -g, or give") as caught:
        source_line_to_offset.find_source_line(build(*flags, strip=strip), "one.c", 4)
    assert "\n" not in str(caught.value)


def test_damaged_dwarf(build: Build) -> None:
    elf = build("-g")
    section = elf.sections_by_name[".debug_line"]
    whole = elf.path.read_bytes()
    for wrong in b"\xff" * section.size, b"\x00" * section.size:
        elf.path.write_bytes(whole[: section.offset] + wrong + whole[section.offset + section.size :])
        with pytest.raises(PinpointError) as caught:
            source_line_to_offset.find_source_line(Elf.read(elf.path), "one.c", 4)
        assert "\n" not in str(caught.value)


def test_relocations_nobody_knows(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.core.elf_symbols_and_relocations._ABSOLUTE", {})
    with pytest.raises(PinpointError, match=r"has a relocation of unknown type \d+ for EM_"):
        line_table.statement_rows(build("-g"))


def test_the_line_that_has_a_text(tmp_path: Path) -> None:
    source = tmp_path / "one.c"
    source.write_text(ONE)
    assert source_line_to_offset.find_line_number(source, "x = mixed(x);") == number(ONE, "x = mixed(x);")
    for text, count in ("return", 2), ("no such text", 0):
        with pytest.raises(PinpointError, match=rf"one\.c: {count} lines have '{text}'"):
            source_line_to_offset.find_line_number(source, text)


def loaded(build_id: str, text: int, previous: int = 0) -> Layout:
    """Return a layout with the module loaded, as the guest reports it."""
    target = SimpleNamespace(
        build_id=build_id,
        sections={".text": text},
        previous={".text": previous} if previous else {},
        guest=SimpleNamespace(name="vm"),
    )
    return cast(Layout, SimpleNamespace(targets={"shape": cast(Target, target)}))


def test_a_precompiled_site_is_at_its_section_and_offset(build: Build) -> None:
    elf = build("-g")
    site = PrecompiledSite.at_line("shape", elf, "one.c", number(ONE, "MARK(first_mark)"))
    request = request_by_section(loaded(elf.build_id, 0xC0001000), [site])
    assert request.specs == [f"@{0xC0001000 + elf.symbols_named('first_mark')[0].address:#x}"]
    assert site.spec == f"shape:first+{site.offset:#x}", "it can be requested by its symbol, too"


@pytest.mark.parametrize("found", ["0123abcd", ""])
def test_another_build_is_refused(build: Build, found: str) -> None:
    site = PrecompiledSite.at_line("shape", build("-g"), "one.c", number(ONE, "MARK(first_mark)"))
    with pytest.raises(
        OtherBuildError,
        match=rf"vm: \.text\+{site.section_offset:#x} is for the shape of build-id {site.build_id}, load",
    ):
        request_by_section(loaded(found, 0xC0001000), [site])
    assert MUTANTS["stale-offset"].relocation is not None
    stale = MUTANTS["stale-offset"].relocation(loaded(found, 0xC0001000), [site])
    assert stale.specs == [f"@{0xC0001000 + site.section_offset:#x}"], "the mutant does not compare build-ids"


def test_the_previous_instance_is_a_mutants(build: Build) -> None:
    elf = build("-g")
    site = PrecompiledSite.at_line("shape", elf, "one.c", number(ONE, "MARK(first_mark)"))
    mutant = MUTANTS["previous-instance"].relocation
    assert mutant is not None
    first, second = loaded(elf.build_id, 0xC0001000), loaded(elf.build_id, 0xC0008000, previous=0xC0001000)
    assert mutant(first, [site]).specs == request_by_section(first, [site]).specs == mutant(second, [site]).specs
    assert request_by_section(second, [site]).specs == [f"@{0xC0008000 + site.section_offset:#x}"]


def test_a_site_that_carries_nothing() -> None:
    with pytest.raises(TypeError, match="not all precompiled: first"):
        request_by_section(loaded("", 0xC0001000), [Site("first", module="shape")])
