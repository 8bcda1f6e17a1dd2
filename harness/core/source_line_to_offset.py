"""Finds a source line in a module by its DWARF line table, as section + offset; the module need not be loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from harness.core.elf import Elf, Symbol
from harness.core.errors import PinpointError
from harness.core.line_table import StatementRow, statement_rows

# The largest number of names in an error message.
_NAMED_AT_MOST = 6


class CodeLocation(NamedTuple):
    """A place in a module's file, as section + offset and as function + offset, in bytes.

    `function_offset` is the offset from the start of the function.
    """

    section: str
    offset: int
    function: str
    function_offset: int


def find_source_line(elf: Elf, file: str, line: int, function: str = "") -> CodeLocation:
    """Find the start of a source line: the lowest address of its code, which must be in a single function.

    `file` is the end of the source's path, long enough to be unique. `function` selects the function if code of the
    line is in several, as is the code of an inlined function. Raises PinpointError (one line) if there is no line
    table, if it does not name the file, if the line has no code, or if the line has code in several functions.
    """
    found = find_source_line_in_each_function(elf, file, line)
    chosen = [each._replace(function=function) for each in found if function in _names(elf, each)] or found
    if function and chosen is found:
        what, mend = f"has no code in {function}", "it has code in"
    elif len(chosen) > 1:
        what, mend = f"has code in {len(chosen)} functions", "name one of"
    else:
        return chosen[0]
    listed = ", ".join(each.function for each in found[:_NAMED_AT_MOST])
    raise PinpointError(f"{file}:{line} {what}", where=str(elf.path), mend=f"{mend} {listed}")


def find_source_line_in_each_function(elf: Elf, file: str, line: int) -> list[CodeLocation]:
    """Find the start of a source line in each function that has code of it.

    Raises PinpointError as `find_source_line` does.
    """
    code = _of_file(elf, file)
    lowest: dict[tuple[str, int], CodeLocation] = {}
    for row in sorted(row for row in code if row.line == line):
        for symbol in _enclosing(elf, row.section, row.offset)[:1]:
            here = CodeLocation(row.section, row.offset, symbol.name, row.offset - elf.offset_in_section(symbol))
            lowest.setdefault((symbol.section, symbol.address), here)
    if not lowest:
        near = min({row.line for row in code}, key=lambda other: abs(other - line))
        raise PinpointError(
            f"{file}:{line} has no code", where=str(elf.path), mend=f"the nearest line with code is {near}"
        )
    return sorted(lowest.values())


def find_line_number(source: Path, text: str) -> int:
    """The number of the line of a source file that has this text. Raises PinpointError unless exactly one has it."""
    found = [number for number, line in enumerate(source.read_text().splitlines(), 1) if text in line]
    if len(found) != 1:
        raise PinpointError(f"{len(found)} lines have {text!r}", where=str(source))
    return found[0]


def _of_file(elf: Elf, file: str) -> list[StatementRow]:
    """The rows of the source file whose path ends in `file`; exactly one must match."""
    wanted = PurePosixPath(file).parts
    paths = {row.file for row in statement_rows(elf)}
    matching = sorted(path for path in paths if PurePosixPath(path).parts[-len(wanted) :] == wanted)
    if len(matching) == 1:
        return [row for row in statement_rows(elf) if row.file == matching[0]]
    if matching:
        raise PinpointError(f"several files are {file}", where=str(elf.path), mend=f"name one of {', '.join(matching)}")
    raise PinpointError(
        f"its line table names no {file}",
        where=str(elf.path),
        mend=f"it has {', '.join(sorted(paths)[:_NAMED_AT_MOST])}",
    )


def _enclosing(elf: Elf, section: str, offset: int) -> Sequence[Symbol]:
    """The functions at an offset into a section; if there are several, they are aliases."""
    return [
        symbol
        for symbol in elf.symbols
        if symbol.kind == "func"
        and symbol.section == section
        and 0 <= offset - elf.offset_in_section(symbol) < symbol.size
    ]


def _names(elf: Elf, found: CodeLocation) -> list[str]:
    return [symbol.name for symbol in _enclosing(elf, found.section, found.offset)]
