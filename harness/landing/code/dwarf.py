"""Where a line of source stands in a module, by its DWARF line table: section + offset, before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from harness.core.elf import Elf, Symbol
from harness.core.errors import PinpointError
from harness.landing.code.line_table import LineRow, rows

# How many names an error message gives.
_NAMED_AT_MOST = 6


class SourceLocation(NamedTuple):
    """A place in a module's file: an offset in bytes into a section, and the same as function + offset into it."""

    section: str
    offset: int
    function: str
    into: int


def place(elf: Elf, file: str, line: int, function: str = "") -> SourceLocation:
    """Where a line of source begins: the lowest address in the one function that has code of it.

    `file` is as much of the source's path as makes it unique; `function` is needed where code of the line is in
    several, as that of an inlined function is. Raises PinpointError, one line: no line table, a file it does not name,
    a line without code, a line with code in several functions.
    """
    found = places(elf, file, line)
    chosen = [each._replace(function=function) for each in found if function in _names(elf, each)] or found
    if function and chosen is found:
        what, mend = f"has no code in {function}", "it has in"
    elif len(chosen) > 1:
        what, mend = f"has code in {len(chosen)} functions", "name one of"
    else:
        return chosen[0]
    listed = ", ".join(each.function for each in found[:_NAMED_AT_MOST])
    raise PinpointError(f"{file}:{line} {what}", where=str(elf.path), mend=f"{mend} {listed}")


def places(elf: Elf, file: str, line: int) -> list[SourceLocation]:
    """Where a line of source begins in each function that has code of it. Raises PinpointError as `place` does."""
    code = _of_file(elf, file)
    lowest: dict[tuple[str, int], SourceLocation] = {}
    for row in sorted(row for row in code if row.line == line):
        for symbol in _enclosing(elf, row.section, row.offset)[:1]:
            here = SourceLocation(row.section, row.offset, symbol.name, row.offset - elf.place(symbol))
            lowest.setdefault((symbol.section, symbol.address), here)
    if not lowest:
        near = min({row.line for row in code}, key=lambda other: abs(other - line))
        raise PinpointError(
            f"{file}:{line} has no code", where=str(elf.path), mend=f"the nearest that has is line {near}"
        )
    return sorted(lowest.values())


def line_of(source: Path, text: str) -> int:
    """The number of the one line of a source file that has this text. Raises PinpointError for none or several."""
    found = [number for number, line in enumerate(source.read_text().splitlines(), 1) if text in line]
    if len(found) != 1:
        raise PinpointError(f"{len(found)} lines have {text!r}", where=str(source))
    return found[0]


def _of_file(elf: Elf, file: str) -> list[LineRow]:
    """The rows of the one source file whose path ends in `file`."""
    wanted = PurePosixPath(file).parts
    paths = {row.file for row in rows(elf)}
    matching = sorted(path for path in paths if PurePosixPath(path).parts[-len(wanted) :] == wanted)
    if len(matching) == 1:
        return [row for row in rows(elf) if row.file == matching[0]]
    if matching:
        raise PinpointError(f"several files are {file}", where=str(elf.path), mend=f"name one of {', '.join(matching)}")
    raise PinpointError(
        f"its line table names no {file}",
        where=str(elf.path),
        mend=f"it has {', '.join(sorted(paths)[:_NAMED_AT_MOST])}",
    )


def _enclosing(elf: Elf, section: str, offset: int) -> Sequence[Symbol]:
    """The functions, aliases of each other, that have a place of a section."""
    return [
        symbol
        for symbol in elf.symbols
        if symbol.kind == "func" and symbol.section == section and 0 <= offset - elf.place(symbol) < symbol.size
    ]


def _names(elf: Elf, found: SourceLocation) -> list[str]:
    return [symbol.name for symbol in _enclosing(elf, found.section, found.offset)]
