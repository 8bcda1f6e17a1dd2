"""What is kept of unpacked packages: libraries by DT_NEEDED, loaders by their path, everything where scripts run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.images import prune_unpacked_debian_packages


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A library that needs another one, a link to each, and a library that nobody needs."""
    libraries = tmp_path / "rest/usr/lib/there"
    libraries.mkdir(parents=True)
    for name, needed in (("deep", []), ("near", ["-ldeep"]), ("idle", [])):
        source = tmp_path / f"{name}.c"
        source.write_text(f"int {name}(void) {{ return 1; }}\n")
        built = libraries / f"lib{name}.so.1.2"
        flags = ["-shared", "-fPIC", "-nostdlib", f"-Wl,-soname,lib{name}.so.1", "-Wl,--no-as-needed"]
        subprocess.run(["gcc", *flags, source, "-o", built, f"-L{libraries}", *needed], check=True)
        (libraries / f"lib{name}.so.1").symlink_to(built.name)
        (libraries / f"lib{name}.so").symlink_to(built.name)
    loader = tmp_path / "rest/lib/arch/ld-test.so.2"
    loader.parent.mkdir(parents=True)
    loader.write_bytes(b"a loader")
    (tmp_path / "rest/lib64").mkdir()
    (tmp_path / "rest/lib64/ld-test.so.2").symlink_to("/lib/arch/ld-test.so.2")
    return tmp_path / "rest"


@pytest.fixture
def own(tmp_path: Path, packages: Path) -> Path:
    """A program that loads the near library through a loader that it names."""
    root = tmp_path / "own"
    (root / "usr/bin").mkdir(parents=True)
    source = tmp_path / "main.c"
    source.write_text("int near(void);\nvoid _start(void) { near(); }\n")
    words = ["-nostdlib", "-Wl,--dynamic-linker,/lib64/ld-test.so.2", f"-L{packages}/usr/lib/there", "-lnear"]
    words += [f"-Wl,-rpath-link,{packages}/usr/lib/there"]
    subprocess.run(["gcc", source, "-o", root / "usr/bin/tool", *words], check=True)
    return root


def test_libraries_that_are_needed_are_kept_and_no_others(own: Path, packages: Path) -> None:
    assert prune_unpacked_debian_packages.copy_needed_libraries(own, packages) == [
        "ld-test.so.2",
        "libdeep.so.1",
        "libnear.so.1",
    ]
    kept = {str(path.relative_to(own)) for path in own.rglob("*") if path.is_file()}
    places = {"lib64/ld-test.so.2", "usr/lib/there/libdeep.so.1", "usr/lib/there/libnear.so.1"}
    assert kept == {"usr/bin/tool", *places}
    assert (own / "lib64/ld-test.so.2").read_bytes() == b"a loader"


def test_a_library_is_where_the_loader_looks(own: Path, packages: Path) -> None:
    """LLVM 11 has its library in a directory of its own, and a link of the same name where the loader looks."""
    searched = packages / "usr/lib/x86_64-linux-gnu"
    searched.mkdir()
    (searched / "libnear.so.1").symlink_to("../there/libnear.so.1")
    prune_unpacked_debian_packages.copy_needed_libraries(own, packages)
    kept = own / "usr/lib/x86_64-linux-gnu/libnear.so.1"
    assert kept.read_bytes() == (packages / "usr/lib/there/libnear.so.1").read_bytes()
    assert not (own / "usr/lib/there/libnear.so.1").exists()


def test_no_link_leads_to_a_file_of_the_host(own: Path, packages: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the host's")
    link = packages / "usr/lib/there/libdeep.so.1"
    link.unlink()
    link.symlink_to(f"../../../../{secret.name}")
    assert "libdeep.so.1" not in prune_unpacked_debian_packages.copy_needed_libraries(own, packages)


@pytest.mark.parametrize(
    ("line", "foreign"),
    [
        ("#!/bin/sh", []),
        ("#!/usr/bin/env tool", []),
        ("#!/usr/bin/tool -v", []),
        ("#!/usr/bin/python3", ["script"]),
        ("#!/usr/bin/env -S perl", ["script"]),
        ("no script", []),
    ],
)
def test_scripts_of_other_interpreters_are_known(own: Path, line: str, foreign: list[str]) -> None:
    script = own / "usr/bin/script"
    script.write_text(f"{line}\n")
    assert prune_unpacked_debian_packages.scripts_lacking_interpreter(own) == foreign
    assert prune_unpacked_debian_packages.has_programs(own)


def test_usr_is_merged_whatever_the_packages_do(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "bin/sh").write_text("a shell")
    (tmp_path / "usr/bin/tool").write_text("a tool")
    prune_unpacked_debian_packages.merge_usr(tmp_path)
    assert (tmp_path / "bin").is_symlink()
    assert {path.name for path in (tmp_path / "bin").iterdir()} == {"sh", "tool"}
