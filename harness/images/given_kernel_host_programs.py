"""The programs in a given kernel's headers that run on this host during module builds: modpost, objtool, fixdep.

A newer distribution's programs need a newer C library than this host's. They then run with the libraries of a Debian
suite, next to the unpacked headers.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection

from harness.core.architecture_table import ARCHITECTURES
from harness.core.deadline import Deadline
from harness.core.errors import UsageError
from harness.images import deb, dynamic_linking
from harness.images.debian_packages_by_name import Packages
from harness.images.private_apt import host_debian_architecture

# The suite that has the libraries, the C library that it has, and the suite for programs that need a newer one.
SUITE, NEXT_SUITE = "trixie", "forky"
_GLIBC_OF_SUITE = (2, 41)
# The packages with the libraries that kbuild's programs need.
PACKAGES = ("libelf1t64", "libssl3t64")
LIBRARIES = "host-libraries"

_FETCHING = 300.0
_GLIBC = "GLIBC_"
_NATIVE = frozenset(row.elf_machine for row in ARCHITECTURES.values() if row.native)
_MODPOST = "scripts/mod/modpost"
_BTF = "CONFIG_DEBUG_INFO_BTF_MODULES"
# objtool and modpost start programs named argv[0] plus a suffix, so argv[0] must not change.
_LAUNCHER = """#!/bin/sh
p=$0
[ ! -L "$p" ] || p=$(readlink -f "$p")
d=${{p%/*}}
l="$d/{up}/{libraries}"
exec "$l/{loader}" --argv0 "$0" --library-path "$l" "$d/{program}" "$@"
"""


@dataclass(frozen=True)
class HostProgram:
    """A dynamically linked program for this host: its path, its loader's file name, and the C library it needs."""

    path: Path
    loader: str
    glibc: tuple[int, ...]


def demand_modpost_runs_here(objects: Path) -> None:
    """Raise UsageError if the headers' modpost is for another architecture or needs a newer C library than the host's.

    Headers without modpost are accepted: make reports what is missing.
    """
    modpost = objects / _MODPOST
    try:
        with modpost.open("rb") as stream:
            machine = str(ELFFile(stream)["e_machine"])
    except (OSError, ELFError):
        return
    if machine not in _NATIVE:
        raise UsageError(
            f"is a program for {machine}, and module builds run it on this host",
            where=str(modpost),
            mend="give headers whose programs are for this host, such as Debian's linux-kbuild-* of its architecture",
        )
    program = _program(modpost)
    if program and program.glibc > host_glibc():
        needed, here = (".".join(map(str, version)) for version in (program.glibc, host_glibc()))
        raise UsageError(
            f"needs the C library {needed}, this host has {here}",
            where=str(modpost),
            mend="give the packages of the kernel; Pinpoint then runs their programs with another library",
        )


def demand_pahole_for_btf(objects: Path, config: Mapping[str, str]) -> None:
    """Raise UsageError if kbuild would run pahole on modules, which it does next to a vmlinux, and there is none."""
    wanted = config.get(_BTF) == "y" and (objects / "vmlinux").is_file()
    if wanted and not shutil.which("pahole"):
        raise UsageError(
            "modules get BTF there, and this host has no pahole",
            where=str(objects),
            mend="install it (Debian's package dwarves)",
        )


def run_with_newer_libraries(tree: Path, packages: Packages) -> int:
    """Replace each program below `tree` by a launcher if one of them needs a newer C library than the host's.

    Returns the number of replaced programs. Raises HostError or RecipeError if the libraries cannot be fetched.
    """
    programs = list(_programs_below(tree))
    needed = max((program.glibc for program in programs), default=())
    if needed <= host_glibc():
        return 0
    suite = packages.with_suite_and_base_release(SUITE if needed <= _GLIBC_OF_SUITE else NEXT_SUITE)
    libraries = tree / LIBRARIES
    libraries.mkdir()
    with tempfile.TemporaryDirectory(dir=tree) as scratch:
        files = suite.fetch_closure(PACKAGES, host_debian_architecture(), deadline=Deadline.after(_FETCHING))
        for file in files:
            deb.unpack(file, Path(scratch))
        for directory in ("usr/lib", "lib", "usr/lib64", "lib64"):
            for library in (Path(scratch) / directory).glob("**/*.so*"):
                found = deb.follow_in_tree(library, Path(scratch))
                if found and library.parent.name != "gconv":
                    shutil.copy(found, libraries / library.name)
    for program in programs:
        up = "/".join([".."] * (len(program.path.relative_to(tree).parts) - 1))
        renamed = program.path.with_name(f".{program.path.name}")
        program.path.rename(renamed)
        text = _LAUNCHER.format(up=up, libraries=LIBRARIES, loader=program.loader, program=renamed.name)
        program.path.write_text(text)
        program.path.chmod(0o755)
    return len(programs)


def host_glibc() -> tuple[int, ...]:
    """Return the version of this host's C library; of another library than glibc, an empty version."""
    name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    return _version(version) if name == "glibc" else ()


def _programs_below(tree: Path) -> Iterator[HostProgram]:
    for directory, _, names in os.walk(tree):
        for name in names:
            path = Path(directory, name)
            if not path.is_symlink() and path.is_file() and (program := _program(path)):
                yield program


def _program(path: Path) -> HostProgram | None:
    """Return what a program for this host needs; None for a file that is no dynamically linked program for it."""
    with path.open("rb") as stream:
        if stream.read(4) != b"\x7fELF":
            return None
        try:
            elf = ELFFile(stream)
            loader = dynamic_linking.interpreter_path(elf)
            if str(elf["e_machine"]) not in _NATIVE or not loader:
                return None
            return HostProgram(path, Path(loader).name, max(_glibc_versions(elf), default=()))
        except ELFError:
            return None


def _glibc_versions(elf: ELFFile) -> Iterator[tuple[int, ...]]:
    section = elf.get_section_by_name(".gnu.version_r")
    if isinstance(section, GNUVerNeedSection):
        for _, versions in section.iter_versions():
            for each in versions:
                if each.name.startswith(_GLIBC):
                    yield _version(each.name.removeprefix(_GLIBC))


def _version(text: str) -> tuple[int, ...]:
    """Return a version as numbers; words, as in GLIBC_PRIVATE and GLIBC_ABI_DT_RELR, are left out."""
    return tuple(int(part) for part in text.split(".") if part.isdigit())
