"""A kernel's object tree: its location, the files kept to build modules, and its count of function sections."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from harness.core import paths
from harness.core.architecture import Architecture
from harness.core.deadline import Deadline
from harness.core.errors import BuildError
from harness.core.files import sha256_of_strings
from harness.core.process import run
from harness.images import kernel_config
from harness.images.kernel_toolchain import compiler_and_linker_versions
from harness.images.recipe_files import fragment_or_patch_path
from harness.images.vm_recipe import Recipe

NAME = "tree"

# Files that `make M=` reads below O= (Makefile and scripts/Makefile.modpost, 6.1); objtool runs on every x86 module.
_KEPT = (
    "Makefile",
    "Module.symvers",
    "include/config/auto.conf",
    "include/config/kernel.release",
    "include/generated",
    "scripts",
    "arch/*/include/generated",
    "tools/objtool/objtool",
)
_DROPPED = re.compile(r".*\.(o|a|d|cmd|mod|order)|\..*")

# From `readelf --wide`: `  [17] .text.hex2bin   PROGBITS ...` and `  42: 00000000 96 FUNC GLOBAL DEFAULT 17 hex2bin`.
_TEXT_SECTION = re.compile(r"\s*\[ *(\d+)\] \.text\.(?:unlikely\.|hot\.)?(\S+)")
_FUNCTION = re.compile(r"\s*\d+: [0-9a-f]+ +\w+ FUNC .* +(\d+) (\S+)")


def directory(recipe: Recipe, source: Path) -> Path:
    """Return the directory that keeps the objects of a recipe's kernel, compiled from `source`, between builds.

    Recipes that compile the same objects share the directory: fragments that only the linker script reads do not count.
    Other fragments count by name. After an edit of a fragment, kbuild decides what to compile again.
    """
    fragments = [
        name
        for name in recipe.kernel.config
        if kernel_config.fragment_affects_compilation(fragment_or_patch_path("config", name))
    ]
    way = [
        recipe.arch,
        str(source),
        recipe.kernel.cflags,
        compiler_and_linker_versions(recipe.architecture),
        *fragments,
    ]
    if recipe.kernel.config_file:
        way.append(recipe.kernel.config_file)
    return paths.cache() / "work" / f"{recipe.arch}-{sha256_of_strings(way)[:12]}"


def copy_build_files(objects: Path, into: Path) -> None:
    """Copy the files that module builds need from the object tree `objects` to `into`, following links."""
    for found in _kept_files(objects):
        copy = into / found.relative_to(objects)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(found, copy)


def count_function_sections(vmlinux_o: Path, architecture: Architecture) -> int:
    """Return the number of functions that were compiled into their own input section, `.text.NAME`.

    The file vmlinux.o is linked without a script and keeps the sections of its inputs separate. Sections with such a
    name from assembly do not count: they contain no function of that name. Raises BuildError when readelf fails.
    """
    readelf = f"{architecture.cross_prefix}readelf"
    finished = run([readelf, "--wide", "--section-headers", "--symbols", vmlinux_o], deadline=Deadline.after(120))
    if finished.rc != 0:
        raise BuildError("readelf cannot read it", where=str(vmlinux_o))
    sections: dict[str, str] = {}
    functions = 0
    for line in finished.output.splitlines():
        if section := _TEXT_SECTION.match(line):
            sections[section[1]] = section[2]
        elif function := _FUNCTION.match(line):
            functions += sections.get(function[1]) == function[2]
    return functions


def _kept_files(objects: Path) -> Iterator[Path]:
    for pattern in _KEPT:
        for top in objects.glob(pattern):
            yield from [top] if top.is_file() else _files_below(top)


def _files_below(directory: Path) -> Iterator[Path]:
    return (path for path in directory.rglob("*") if path.is_file() and not _DROPPED.fullmatch(path.name))
