"""What is kept of a kernel's object tree: enough to build modules against it, and what can be counted in it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from harness.core.architecture import Architecture
from harness.core.deadline import Deadline
from harness.core.errors import BuildError
from harness.core.process import run

NAME = "tree"

# What `make M=` reads below O= (Makefile and scripts/Makefile.modpost, 6.1); objtool runs on every x86 module.
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

# Of `readelf --wide`: `  [17] .text.hex2bin   PROGBITS ...` and `  42: 00000000 96 FUNC GLOBAL DEFAULT 17 hex2bin`.
_TEXT_SECTION = re.compile(r"\s*\[ *(\d+)\] \.text\.(?:unlikely\.|hot\.)?(\S+)")
_FUNCTION = re.compile(r"\s*\d+: [0-9a-f]+ +\w+ FUNC .* +(\d+) (\S+)")


def keep(objects: Path, into: Path) -> None:
    """Copy of the object tree at `objects` what building modules needs, links followed, to the directory `into`."""
    for found in _kept_files(objects):
        copy = into / found.relative_to(objects)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(found, copy)


def text_sections(vmlinux_o: Path, architecture: Architecture) -> int:
    """How many functions of a kernel were compiled into an input section of their own, `.text.NAME`.

    Read from vmlinux.o, which is linked without a script and so keeps its inputs' sections apart. What its
    assembly names so does not count: no function of that name stands in it. Raises BuildError when it cannot be read.
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
