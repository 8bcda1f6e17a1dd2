"""What a guest needs of unpacked Debian packages to run them: their own files, and the libraries that these load."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from harness.images import deb, dynamic_linking

# What no command reads. Debian's own installations of containers leave the same out.
_LEFT_OUT = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian", "var/cache")
_PROGRAMS = ("bin", "sbin", "usr/bin", "usr/sbin")
_LIBRARIES = ("lib", "lib32", "lib64")
_MAGIC = b"\x7fELF"


def delete_documentation(root: Path) -> None:
    """Delete documentation."""
    for name in _LEFT_OUT:
        shutil.rmtree(root / name, ignore_errors=True)


def scripts_lacking_interpreter(root: Path) -> list[str]:
    """Return the programs of a tree whose interpreter is neither sh nor in the tree.

    No ELF file shows what they need.
    """
    files = [path for directory in _PROGRAMS for path in sorted((root / directory).glob("*")) if path.is_file()]
    own = {path.name for path in files} | {"sh"}
    return [path.name for path in files if (interpreter := _interpreter(path)) and interpreter not in own]


def has_programs(root: Path) -> bool:
    """Return whether there is any program in the tree."""
    return any(path.is_file() for directory in _PROGRAMS for path in (root / directory).glob("*"))


def copy_needed_libraries(root: Path, packages: Path) -> list[str]:
    """Copy into `root` each library that its ELF files load, and the loader that they name; return their names.

    `packages` is where all that the packages depend on is unpacked. What it does not have is left out: a library that
    is missing is an error of the tool that loads it, which the tool itself reports.
    """
    found = list(packages.rglob("*.so*"))
    # The last one takes precedence. A link where the loader looks can have the name of its target in another directory
    # (libclang-cpp.so.11), and the loader's link has the name of the loader's file.
    found.sort(key=lambda path: (_is_searched(path.relative_to(packages).parent), not path.is_symlink()))
    libraries = {path.name: path for path in found}
    own = {path.name for path in root.rglob("*.so*")}
    pending = {needed for path in root.rglob("*") if _is_elf(path) for needed in _needed(path)}
    kept: set[str] = set()
    while pending:
        needed = pending.pop()
        name = Path(needed).name
        source = deb.follow_in_tree(libraries[name], packages) if name in libraries else None
        if needed in kept or name in own or source is None or not source.is_file():
            continue
        kept.add(needed)
        # A loader is named by its path, and a library by its name alone.
        place = root / (needed.lstrip("/") if "/" in needed else libraries[name].relative_to(packages))
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, place)
        pending |= set(_needed(place))
    return sorted({Path(needed).name for needed in kept})


def _is_searched(directory: Path) -> bool:
    """Return True for a directory in which Debian's loader looks for a library: /usr/lib/x86_64-linux-gnu, /lib64."""
    name = str(directory.parent if directory.name.count("-linux-gnu") else directory)
    return name.removeprefix("usr/") in _LIBRARIES


def merge_usr(root: Path) -> None:
    """/bin, /sbin and /lib* as links into /usr: packages have files in both, and no package makes the links."""
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        old, real = root / name, root / "usr" / name
        if old.is_dir() and not old.is_symlink():
            shutil.copytree(old, real, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(old)
        if real.is_dir() and not os.path.lexists(old):
            old.symlink_to(f"usr/{name}")


def _interpreter(path: Path) -> str:
    """The name of the program that runs a script, empty for a file that is no script."""
    with path.open("rb") as stream:
        first = stream.readline(256)
    words = first[2:].decode(errors="replace").split() if first.startswith(b"#!") else []
    names = [Path(word).name for word in words if not word.startswith("-")]
    return names[1] if names[:1] == ["env"] and len(names) > 1 else names[0] if names else ""


def _is_elf(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(len(_MAGIC)) == _MAGIC


def _needed(file: Path) -> Iterator[str]:
    """The libraries that an ELF file loads, and its loader."""
    with file.open("rb") as stream:
        try:
            elf = ELFFile(stream)
            if interpreter := dynamic_linking.interpreter_path(elf):
                yield interpreter
            yield from dynamic_linking.needed_libraries(elf)
        except ELFError:
            return
