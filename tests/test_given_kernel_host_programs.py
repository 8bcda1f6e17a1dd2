"""Headers of a newer distribution: their programs run with other libraries, and their modules get their compiler."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import pytest
from elftools.elf.elffile import ELFFile

from harness.core.errors import UsageError
from harness.images import dynamic_linking, given_kernel_compiler, given_kernel_host_programs
from harness.images.debian_packages_by_name import Packages
from harness.images.given_kernel_host_programs import LIBRARIES
from harness.images.vm_recipe import Kernel, Recipe, select

PROGRAM = Path(shutil.which("echo") or "/bin/echo")
# e_machine in the header of an ELF file (elf(5)): its place and the number of a VAX.
E_MACHINE, VAX = 18, b"\x4b\0"


class LibraryPackages:
    """Has one package, with the libraries of this host's `echo`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.suites: list[str] = []

    def with_suite_and_base_release(self, suite: str) -> LibraryPackages:
        self.suites.append(suite)
        return self

    def fetch_closure(self, names: Sequence[str], architecture: str, **_: object) -> list[Path]:
        assert names == given_kernel_host_programs.PACKAGES
        tree = self._directory / "libc"
        (tree / "DEBIAN").mkdir(parents=True)
        about = {"Package": "libc", "Version": "1", "Architecture": architecture, "Maintainer": "x", "Description": "x"}
        (tree / "DEBIAN/control").write_text("".join(f"{name}: {value}\n" for name, value in about.items()))
        (tree / "usr/lib").mkdir(parents=True)
        printed = subprocess.run(["ldd", PROGRAM], capture_output=True, text=True, check=True).stdout
        for word in printed.split():
            if word.startswith("/"):
                shutil.copy(word, tree / "usr/lib")
        subprocess.run(["chmod", "-R", "go+rX", tree], check=True)
        package = self._directory / "libc.deb"
        subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, package], check=True, capture_output=True)
        return [package]


@pytest.fixture
def headers(tmp_path: Path) -> Path:
    objects = tmp_path / "tree/usr/src/linux-headers-9"
    (objects / "scripts/mod").mkdir(parents=True)
    shutil.copy(PROGRAM, objects / "scripts/mod/modpost")
    (objects / "scripts/plain.sh").write_text("#!/bin/sh\n")
    (objects / "scripts/link").symlink_to("mod/modpost")
    return objects


@pytest.fixture
def old_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(given_kernel_host_programs, "host_glibc", lambda: (2, 2))


@pytest.mark.usefixtures("old_host")
def test_programs_for_a_newer_library_run_with_another(headers: Path, tmp_path: Path) -> None:
    packages = LibraryPackages(tmp_path)
    tree = tmp_path / "tree"
    assert given_kernel_host_programs.run_with_newer_libraries(tree, cast(Packages, packages)) == 1
    assert packages.suites == [given_kernel_host_programs.SUITE]
    for name in ("mod/modpost", "link"):
        program = headers / "scripts" / name
        words = {"LD_DEBUG": "libs", "LC_ALL": "C"}
        done = subprocess.run([program, "a b"], capture_output=True, text=True, check=True, env=words)
        assert done.stdout == "a b\n"
        assert f"/{LIBRARIES}/libc.so.6" in done.stderr
    assert (headers / "scripts/plain.sh").read_text() == "#!/bin/sh\n"
    given_kernel_host_programs.demand_modpost_runs_here(headers)


@pytest.mark.usefixtures("old_host")
def test_the_newest_programs_get_libraries_of_the_next_release(
    headers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(given_kernel_host_programs, "_GLIBC_OF_SUITE", (2, 3))
    packages = LibraryPackages(tmp_path)
    assert given_kernel_host_programs.run_with_newer_libraries(headers.parents[2], cast(Packages, packages)) == 1
    assert packages.suites == [given_kernel_host_programs.NEXT_SUITE]


def test_programs_that_run_here_are_left_alone(headers: Path, tmp_path: Path) -> None:
    before = (headers / "scripts/mod/modpost").read_bytes()
    packages = LibraryPackages(tmp_path)
    assert given_kernel_host_programs.run_with_newer_libraries(tmp_path / "tree", cast(Packages, packages)) == 0
    assert (headers / "scripts/mod/modpost").read_bytes() == before
    assert packages.suites == []
    given_kernel_host_programs.demand_modpost_runs_here(headers)


@pytest.mark.usefixtures("old_host")
def test_a_directory_of_headers_for_a_newer_library_is_one_line(headers: Path) -> None:
    with pytest.raises(UsageError, match=r"modpost: needs the C library 2\.\d+, this host has 2\.2; give the packages"):
        given_kernel_host_programs.demand_modpost_runs_here(headers)


def test_headers_of_another_architecture_are_one_line(headers: Path) -> None:
    modpost = headers / "scripts/mod/modpost"
    content = bytearray(modpost.read_bytes())
    content[E_MACHINE : E_MACHINE + 2] = VAX
    modpost.write_bytes(content)
    with pytest.raises(UsageError, match="modpost: is a program for EM_VAX"):
        given_kernel_host_programs.demand_modpost_runs_here(headers)


def test_headers_without_modpost_are_left_to_make(tmp_path: Path) -> None:
    given_kernel_host_programs.demand_modpost_runs_here(tmp_path)


def test_a_build_with_btf_needs_pahole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    config = {"CONFIG_DEBUG_INFO_BTF_MODULES": "y"}
    given_kernel_host_programs.demand_pahole_for_btf(tmp_path, config)
    (tmp_path / "vmlinux").write_bytes(b"")
    given_kernel_host_programs.demand_pahole_for_btf(tmp_path, {})
    with pytest.raises(UsageError, match="this host has no pahole"):
        given_kernel_host_programs.demand_pahole_for_btf(tmp_path, config)


def test_the_library_that_a_program_needs_is_read_from_it() -> None:
    program = given_kernel_host_programs._program(PROGRAM)
    assert program
    assert (2, 2) < program.glibc <= given_kernel_host_programs.host_glibc()
    with PROGRAM.open("rb") as stream:
        assert program.loader == Path(dynamic_linking.interpreter_path(ELFFile(stream))).name


@pytest.mark.parametrize(
    ("config", "compiler", "suite"),
    [
        ({"CONFIG_GCC_VERSION": "130200"}, "gcc-13", "trixie"),
        ({"CONFIG_GCC_VERSION": "140200"}, "gcc-14", "trixie"),
        ({"CONFIG_GCC_VERSION": "150100"}, "gcc-15", "forky"),
        ({"CONFIG_GCC_VERSION": "120200"}, "", ""),
        ({"CONFIG_GCC_VERSION": "0"}, "", ""),
        ({}, "", ""),
    ],
)
def test_a_newer_compiler_is_that_of_the_kernel(
    config: Mapping[str, str], compiler: str, suite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(given_kernel_compiler, "_host_version", lambda _: 12)
    given = Kernel(source="given", given=("/vmlinuz",))
    recipe: Recipe = select(["x86_64-debian"])[0].model_copy(update={"kernel": given})
    found = given_kernel_compiler.with_compiler(recipe, config)
    assert (found.compiler, found.suite) == (compiler, suite)
