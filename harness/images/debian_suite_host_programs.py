"""Programs of another Debian suite, unpacked into the store and run on this host with their own libraries.

A newer QEMU, and the compiler that configured a packaged kernel, are obtained this way. Nothing is installed: apt
resolves and checks the packages in a private state, and a launcher starts each program with that suite's loader.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from harness.core.architecture_table import ARCHITECTURES
from harness.core.deadline import Deadline
from harness.core.errors import BuildError
from harness.core.events import ProgressStep
from harness.core.files import code_sha256
from harness.images import deb, dynamic_linking
from harness.images.build_context import BuildContext
from harness.images.debian_packages_by_name import Packages
from harness.images.private_apt import host_debian_architecture
from harness.images.store import Entry

KIND = "suite-programs"
LAUNCHERS = "bin"

_FETCHING = 900.0
_NATIVE = frozenset(row.elf_machine for row in ARCHITECTURES.values() if row.native)
_LIBRARIES, _FILES = "lib", "root"
# `exec` keeps one process, so that a signal to the launcher reaches the program.
_THROUGH_LOADER = (
    '#!/bin/sh\nd=${{0%/*}}/..\nexec "$d/lib/{loader}" --library-path "$d/lib" "$d/root/{program}"{words} "$@"\n'
)
# Debian's modpost and objtool start a program named argv[0] plus a suffix for the target: argv[0] must not change.
_IN_PLACE = """#!/bin/sh
d=${{0%/*}}
l="$d/{up}/{libraries}"
exec "$l/{loader}" --argv0 "$0" --library-path "$l" "$d/{program}" "$@"
"""
_OF_HOST = '#!/bin/sh\nexec {program} "$@"\n'
_TO_PLACE = '#!/bin/sh\nd=${{0%/*}}/..\nexec "$d/{files}/{program}"{words} "$@"\n'


@dataclass(frozen=True)
class WantedSuitePrograms:
    """The packages to unpack, and the files to keep from them.

    `suite` is a suite's name as in a recipe; `packages` are fetched with their dependencies. `kept_paths` are files and
    directories, as paths without a leading slash. `launcher_commands` maps a launcher's name to one of the kept
    programs and the arguments that precede the caller's; `{files}` in them is replaced by the directory of the kept
    files. `host_launchers` maps a launcher's name to a program of this host. With `launchers_in_place`, every kept
    program is replaced by a launcher, so that the programs find and start each other by their paths.
    """

    suite: str
    packages: tuple[str, ...]
    kept_paths: tuple[str, ...]
    launcher_commands: Mapping[str, tuple[str, ...]] = field(hash=False)
    host_launchers: Mapping[str, str] = field(default_factory=dict, hash=False)
    launchers_in_place: bool = False


def key_parts(wanted: WantedSuitePrograms, build_context: BuildContext) -> list[str]:
    """Return every input of the entry, for its store key: the packages and their dependencies."""
    closure = _packages(wanted, build_context).closure_hashes(wanted.packages, host_debian_architecture())
    return [
        *(f"{name} {closure[name]}" for name in sorted(closure)),
        *wanted.kept_paths,
        *(f"{name} {' '.join(words)}" for name, words in sorted(wanted.launcher_commands.items())),
        *(f"{name} {program}" for name, program in sorted(wanted.host_launchers.items())),
        *(["launchers in place"] if wanted.launchers_in_place else []),
        *(code_sha256(Path(name)) for name in (__file__, str(deb.__file__), str(dynamic_linking.__file__))),
    ]


def obtain_launchers(wanted: WantedSuitePrograms, build_context: BuildContext, *, vm: str) -> Entry:
    """Return an entry whose `bin/` contains a launcher for each program.

    Raises RecipeError when the suite lacks a package, HostError when a package cannot be fetched, BuildError when a
    package lacks an expected file.
    """
    job = _Job(wanted, _packages(wanted, build_context))
    return build_context.store.obtain(KIND, key_parts(wanted, build_context), vm=vm, build=job.build)


def replace_programs_by_launchers(
    tree: Path, package: str, suite: str, host_packages: Packages, deadline: Deadline
) -> int:
    """Make the host's programs below `tree`, from `package` of a suite, run with the libraries of that suite.

    Each program for the host's architecture is renamed, and a launcher gets its name. Returns the number of programs.
    Raises as `obtain_launchers`.
    """
    packages = host_packages.with_suite_and_base_release(suite)
    with tempfile.TemporaryDirectory(dir=tree) as scratch:
        for file in packages.fetch_closure((package,), host_debian_architecture(), deadline=deadline):
            deb.unpack(file, Path(scratch))
        libraries = _Tree(Path(scratch), tree)
        programs = [path for path in tree.rglob("*") if not path.is_relative_to(scratch) and libraries.needs(path)]
        libraries.keep_libraries()
    for program in programs:
        _replace_by_launcher(program, tree, libraries.loader)
    return len(programs)


def _replace_by_launcher(program: Path, entry: Path, loader: str) -> None:
    """Rename a program below an entry, and write a launcher that has its path."""
    up = "/".join([".."] * (len(program.relative_to(entry).parts) - 1)) or "."
    renamed = program.with_name(f".{program.name}")
    program.rename(renamed)
    _write(program, _IN_PLACE.format(up=up, loader=loader, program=renamed.name, libraries=_LIBRARIES))


def _packages(wanted: WantedSuitePrograms, build_context: BuildContext) -> Packages:
    return build_context.packages.with_suite_and_base_release(wanted.suite)


@dataclass(frozen=True)
class _Job:
    """Build of one set of programs into a store entry."""

    wanted: WantedSuitePrograms
    packages: Packages

    def build(self, entry: Path, step: ProgressStep) -> Mapping[str, Any]:
        """Unpack the packages to a scratch directory, keep the programs and their libraries, and write launchers."""
        deadline = Deadline.after(_FETCHING)
        with tempfile.TemporaryDirectory(dir=entry) as scratch:
            step.publish_progress(f"fetching {', '.join(self.wanted.packages)} of {self.wanted.suite}", 0.0)
            files = self.packages.fetch_closure(self.wanted.packages, host_debian_architecture(), deadline=deadline)
            for number, package in enumerate(files):
                step.publish_progress(f"unpacking {package.name}", 0.3 + 0.6 * number / len(files))
                deb.unpack(package, Path(scratch))
            tree = _Tree(Path(scratch), entry)
            for place in self.wanted.kept_paths:
                tree.keep(place)
            libraries = tree.keep_libraries()
        if not tree.loader:
            raise BuildError("no program with a dynamic loader was kept", mend=f"see {Path(__file__).name}")
        for kept in tree.programs if self.wanted.launchers_in_place else []:
            _replace_by_launcher(kept, entry, tree.loader)
        script = _TO_PLACE if self.wanted.launchers_in_place else _THROUGH_LOADER
        for name, (program, *words) in self.wanted.launcher_commands.items():
            before = "".join(f" {word}" for word in words).format(files=f'"$d/{_FILES}')
            launcher = script.format(loader=tree.loader, files=_FILES, program=program, words=before)
            _write(entry / LAUNCHERS / name, launcher)
        for name, program in self.wanted.host_launchers.items():
            _write(entry / LAUNCHERS / name, _OF_HOST.format(program=program))
        return {"packages": len(files), "libraries": libraries}


def _write(path: Path, script: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(script)
    path.chmod(0o755)


class _Tree:
    """Unpacked packages, and the entry to which some of their files are copied."""

    def __init__(self, unpacked: Path, entry: Path) -> None:
        self._unpacked = unpacked
        self._entry = entry
        self._needed: set[str] = set()
        self.loader = ""
        """The file name of the dynamic loader that the kept programs name."""
        self.programs: list[Path] = []
        """The kept files that name a dynamic loader."""

    def keep(self, place: str) -> None:
        """Copy a file, or a directory and everything below it; links are replaced by their targets."""
        source = deb.follow_in_tree(self._unpacked / place, self._unpacked)
        if source is None:
            raise BuildError(f"no {place} in the packages", mend="has Debian moved it elsewhere?")
        for path in [source, *source.rglob("*")] if source.is_dir() else [source]:
            file = deb.follow_in_tree(path, self._unpacked)
            if file is None or not file.is_file():
                continue
            kept = self._entry / _FILES / place / path.relative_to(source)
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, kept)
            self._needed |= set(self._libraries_of(kept))
            if self.needs(kept):
                self.programs.append(kept)

    def needs(self, file: Path) -> bool:
        """Return True for a program with a dynamic loader, and mark its libraries to be kept."""
        if file.is_symlink() or not file.is_file():
            return False
        before, self.loader = self.loader, ""
        needed = set(self._libraries_of(file))
        found, self.loader = bool(self.loader), self.loader or before
        self._needed |= needed if found else set()
        return found

    def keep_libraries(self) -> int:
        """Copy the libraries of the kept programs and the libraries that those need; return their number."""
        libraries = self._entry / _LIBRARIES
        libraries.mkdir()
        # A cross compiler's packages have a C library for the target, too, with the same file names.
        found = {path.name: path for path in self._unpacked.rglob("*.so*") if self._is_for_host(path)}
        while missing := {name for name in {*self._needed, self.loader} if name and not (libraries / name).exists()}:
            for name in missing:
                file = deb.follow_in_tree(found[name], self._unpacked) if name in found else None
                if file is None:
                    raise BuildError(f"no library {name} in the packages", mend="has Debian moved it elsewhere?")
                shutil.copy(file, libraries / name)
                self._needed |= set(self._libraries_of(libraries / name))
        return sum(1 for _ in libraries.iterdir())

    def _is_for_host(self, path: Path) -> bool:
        """Return True if the path, or the file that it is a link to, begins as an ELF file for this host does."""
        file = deb.follow_in_tree(path, self._unpacked)
        if file is None or not file.is_file():
            return False
        with file.open("rb") as stream:
            try:
                return str(ELFFile(stream)["e_machine"]) in _NATIVE
            except ELFError:
                return False

    def _libraries_of(self, file: Path) -> Iterator[str]:
        """Yield the libraries that an ELF file for this host's architecture needs; nothing for any other file."""
        with file.open("rb") as stream:
            try:
                elf = ELFFile(stream)
            except ELFError:
                return
            # Firmware for guests is an ELF file too, and may name a loader (hppa-firmware.img).
            if str(elf["e_machine"]) not in _NATIVE:
                return
            if interpreter := dynamic_linking.interpreter_path(elf):
                self.loader = Path(interpreter).name
            yield from dynamic_linking.needed_libraries(elf)
