"""What looks like a kprobe in a module's data is one only if its type is struct kprobe, where types are known."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.core.elf import Elf
from harness.landing.code import kprobe_sites_in_module_file, kprobe_types_in_module_file

SOURCE = """\
struct list { void *next, *prev; };
struct kprobe { struct list hash, list; unsigned long missed; void *addr; const char *symbol_name; unsigned int offset; };
struct kretprobe { struct kprobe kp; void *handler; };
struct alike { struct list hash, list; unsigned long missed; void *addr; const char *label; unsigned int offset; };
typedef const struct kprobe own_kprobe;
struct kprobe plain = { .symbol_name = "plain_function" };
struct kretprobe around = { .kp.symbol_name = "around_function" };
struct { long first; struct kprobe several[2]; } inner = { .several = { { 0 }, { .symbol_name = "inner_function" } } };
struct alike other = { .label = "other_function" };
struct { long first; union { struct alike a; struct list b; }; } nested = { .a.label = "nested_function" };
int f(void) { static struct alike local = { .label = "local_function" }; local.missed++; return local.offset; }
"""  # noqa: E501
KPROBES = ["plain_function", "around_function", "inner_function"]
ALIKE = ["other_function", "nested_function"]


def compiled(directory: Path, *flags: str) -> Elf:
    source, made = directory / "m.c", directory / "m.o"
    source.write_text(SOURCE)
    command = ["x86_64-linux-gnu-gcc", "-fno-pic", "-ffreestanding", *flags, "-c", source, "-o", made]
    subprocess.run(command, check=True)
    return Elf.read(made)


def by_type(elf: Elf, vmlinux: Path) -> list[str]:
    possible = kprobe_sites_in_module_file.find_possible_kprobes(elf)
    assert sorted(each.site.symbol for each in possible) == sorted([*KPROBES, *ALIKE, "local_function"])
    found = kprobe_types_in_module_file.kprobes_by_type(elf, possible, vmlinux)
    return sorted(each.site.symbol for each in found)


@pytest.mark.parametrize("flags", [("-g",), ("-gdwarf-4", "-O2"), ("-g", "-gz")])
def test_debug_information_tells_kprobes_from_what_looks_alike(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """A variable of a function has a symbol with a number; it is kept, as what no type describes."""
    assert by_type(compiled(tmp_path, *flags), tmp_path / "vmlinux") == sorted([*KPROBES, "local_function"])


def test_without_types_all_are_kept(tmp_path: Path) -> None:
    elf = compiled(tmp_path)
    assert by_type(elf, elf.path) == sorted([*KPROBES, *ALIKE, "local_function"])


@pytest.mark.parametrize(("before", "kept"), [("struct list hash, list;", 6), ("struct list hash;", 0)])
def test_the_kernels_types_show_where_the_name_is(tmp_path: Path, before: str, kept: int) -> None:
    """A kernel whose struct kprobe has another layout."""
    (tmp_path / "k.c").write_text(f"{SOURCE.replace('struct list hash, list;', before, 1)}struct kprobe kept;\n")
    vmlinux = tmp_path / "vmlinux"
    subprocess.run(["x86_64-linux-gnu-gcc", "-g", "-c", tmp_path / "k.c", "-o", vmlinux], check=True)
    assert len(by_type(compiled(tmp_path), vmlinux)) == kept
