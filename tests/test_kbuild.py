"""The kernel's make is run with progress, its first error is reported, and only the needed objects are kept."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.core import paths
from harness.core.architecture_table import ARCHITECTURES
from harness.core.deadline import Deadline
from harness.core.errors import BuildError, HostError
from harness.core.events import Bus, Event, ProgressStep
from harness.images import kbuild, object_tree
from harness.images.vm_recipe import Recipe

NATIVE = next(architecture for architecture in ARCHITECTURES.values() if architecture.native)


def test_commands_are_counted_and_reported_with_a_fraction() -> None:
    bus, events = Bus(), list[Event]()
    bus.add_listener(events.append)
    output = kbuild.MakeProgress(ProgressStep(bus, "vm", "kernel"), expected_command_count=4)
    for line in (
        "make[1]: Entering directory '/objects'",
        "  HOSTCC  scripts/basic/fixdep",
        "  CC      kernel/fork.o",
        "kernel/fork.c:10:1: warning: unused",
        "  CC [M]  drivers/net/dummy.o",
        "  LD      vmlinux",
        "  CC      more/than/expected.o",
    ):
        output.process_line(line)
    assert output.printed_command_count == 5
    assert [event.detail for event in events] == [
        "fixdep",
        "fork.o",
        "dummy.o",
        "vmlinux",
        "expected.o",
    ]
    assert [event.fraction for event in events] == [0.25, 0.5, 0.75, 0.99, 0.99]


def test_a_failed_step_names_its_own_first_complaint(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "build.log"
    log.parent.mkdir()
    log.write_text("old.c:1: error: of an earlier run\n")
    script = "echo fine; echo 'new.c:7:3: error: no such thing'; echo 'make: *** [x] Error 1'; exit 2"
    with pytest.raises(BuildError) as caught:
        kbuild.run_logged(["sh", "-c", script], "making new", log, deadline=Deadline.after(120))
    assert str(caught.value) == f"{log}: making new failed: new.c:7:3: error: no such thing; see the log"
    assert caught.value.last_lines(1) == ["make: *** [x] Error 1"]
    assert log.read_text().startswith("old.c:1")


def test_warnings_are_counted_once_each(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("a.c:1: warning: unused\n  CC b.o\na.c:1: warning: unused\nld: Warning: orphan section\n")
    assert kbuild.warnings(log) == ["a.c:1: warning: unused", "ld: Warning: orphan section"]


@pytest.mark.parametrize("name", ["with space", "with:colon"])
def test_a_path_that_make_refuses_is_reported_before_it_runs(tmp_path: Path, name: str) -> None:
    make = kbuild.Make(NATIVE, tmp_path, tmp_path / name, tmp_path / "log")
    with pytest.raises(HostError, match="its path has a space or a colon; set PINPOINT_CACHE elsewhere"):
        make.run(["all"], kbuild.MakeProgress(ProgressStep(Bus(), "vm", "kernel")), deadline=Deadline.after(120))
    assert not (tmp_path / "log").exists()


def recipe(name: str, **kernel: object) -> Recipe:
    source = {"source": "debian-source", "package": "linux-source-6.1", "config": ["base", "x86_64"], **kernel}
    arch = "parisc" if name == "parisc" else "x86_64"
    return Recipe.model_validate({"name": name, "arch": arch, "describe": "a test", "kernel": source})


@pytest.fixture
def one_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the same compiler for every architecture, installed or not."""
    monkeypatch.setattr(object_tree, "compiler_and_linker_versions", lambda _architecture: "gcc 12")


@pytest.mark.usefixtures("one_compiler")
def test_recipes_that_compile_the_same_share_their_objects(tmp_path: Path) -> None:
    plain = object_tree.directory(recipe("one"), tmp_path)
    assert plain.parent == paths.cache() / "work"
    assert plain.name.startswith("x86_64-")
    assert object_tree.directory(recipe("two"), tmp_path) == plain
    relinked = recipe("relinked", config=["base", "x86_64", "text-sorted"], patches=["text-main"], sibling="one")
    assert object_tree.directory(relinked, tmp_path) == plain


@pytest.mark.usefixtures("one_compiler")
def test_what_compiles_otherwise_has_objects_of_its_own(tmp_path: Path) -> None:
    trees = [
        object_tree.directory(recipe("one"), tmp_path),
        object_tree.directory(recipe("one"), tmp_path / "patched"),
        object_tree.directory(recipe("parisc"), tmp_path),
        object_tree.directory(recipe("one", cflags="-ffunction-sections"), tmp_path),
        object_tree.directory(recipe("one", config=["base", "x86_64", "kaslr"]), tmp_path),
        object_tree.directory(recipe("one", config=["x86_64", "base"]), tmp_path),
    ]
    assert len(set(trees)) == len(trees)


def test_only_what_module_builds_read_is_kept(tmp_path: Path) -> None:
    objects = tmp_path / "objects"
    kept = {
        "Makefile",
        "Module.symvers",
        "arch/x86/include/generated/asm/x.h",
        "include/config/auto.conf",
        "include/generated/autoconf.h",
        "scripts/mod/modpost",
        "scripts/module.lds",
        "tools/objtool/objtool",
    }
    dropped = {
        ".config",
        "include/config/SMP",
        "include/generated/.vmlinux.lds.h.cmd",
        "kernel/fork.o",
        "scripts/mod/modpost.o",
        "scripts/mod/.modpost.cmd",
        "tools/objtool/check.o",
        "vmlinux",
    }
    for name in kept | dropped:
        (objects / name).parent.mkdir(parents=True, exist_ok=True)
        (objects / name).write_text(name)
    object_tree.copy_build_files(objects, tmp_path / "tree")
    assert {
        str(path.relative_to(tmp_path / "tree")) for path in (tmp_path / "tree").rglob("*") if path.is_file()
    } == kept


@pytest.mark.parametrize(("flags", "sections"), [([], 0), (["-ffunction-sections"], 3)])
def test_functions_with_a_section_of_their_own_are_counted(tmp_path: Path, flags: list[str], sections: int) -> None:
    source = tmp_path / "code.c"
    source.write_text(
        "int one(void) { return 1; }\nint two(void) { return 2; }\n"
        "__attribute__((cold)) int three(void) { return 3; }\n"
        '__attribute__((section(".text.hot"))) int four(void) { return 4; }\n'
    )
    subprocess.run(["gcc", "-c", "-O2", *flags, source, "-o", tmp_path / "code.o"], check=True)
    assert object_tree.count_function_sections(tmp_path / "code.o", NATIVE) == sections


def test_a_vmlinux_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "vmlinux.o").write_text("not ELF")
    with pytest.raises(BuildError, match=r"vmlinux\.o: readelf cannot read it"):
        object_tree.count_function_sections(tmp_path / "vmlinux.o", NATIVE)
