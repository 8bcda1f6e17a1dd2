"""Generates the C table of a precompiled probe: for each target's build its build-id, section names and offsets.

The places are given as source lines and looked up in the targets' files, as a compiler of probes does it. The generated
file has a second part, with the targets' symbols, which only the module that relocates by hand compiles
(probes/precompiled/build_table.h).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from harness.core import paths
from harness.core.elf import Elf
from harness.core.errors import BuildError
from harness.core.source_line_to_offset import CodeLocation, find_line_number, find_source_line

DIRECTORY = "precompiled"
TABLE = "build_table.c"
# A section or symbol name that can stand between quotes in C as it is.
_NAME = re.compile(r"[\w.$-]+")


class SourcePlace(NamedTuple):
    """A place as a person gives it: the line of a source below probes/ that has this text, as part of a function."""

    function: str
    source: str
    text: str

    def locate(self, elf: Elf) -> CodeLocation:
        """Return the place in one build of the module. Raises PinpointError like find_source_line()."""
        source = paths.PROBES / self.source
        return find_source_line(elf, source.name, find_line_number(source, self.text), self.function)


_SHAPES = "target/shapes.h"
# In the order in which the loader is given the targets, and in which the probe reports its sites.
PLACES: Mapping[str, Sequence[SourcePlace]] = {
    "pinpoint_target": (
        SourcePlace("pinpoint_leaf", _SHAPES, "x ^= x << 13;"),
        SourcePlace("pinpoint_leaf", _SHAPES, "x += salt;"),
        SourcePlace("pinpoint_rare", "target/cold.c", "x ^= PINPOINT_RARE;"),
    ),
    "pinpoint_second": (
        SourcePlace("pinpoint_leaf", _SHAPES, "x ^= x << 13;"),
        SourcePlace("pinpoint_leaf", _SHAPES, "x += salt;"),
        SourcePlace("pinpoint_second_rare", _SHAPES, "x += salt;"),
    ),
}


def probed_sections(elf: Elf, places: Sequence[SourcePlace]) -> list[str]:
    """Return the sections of these places in one build, each once, in the order of the places."""
    return list(dict.fromkeys(each.locate(elf).section for each in places))


def write_c_table(directory: Path, modules: Path) -> None:
    """Write TABLE to `directory`, for the targets whose files are in `modules`.

    Raises BuildError for a target without a build-id or with a strange name, PinpointError for a place that it lacks.
    """
    text = ["/* Generated from the targets' files. */", "#include <linux/kernel.h>", "", '#include "build_table.h"', ""]
    for number, (module, places) in enumerate(PLACES.items()):
        text += _build(number, Elf.read(modules / f"{module}.ko"), places)
    text += ["const struct pinpoint_build pinpoint_builds[] = {"]
    for number, module in enumerate(PLACES):
        text += _entry(number, Elf.read(modules / f"{module}.ko"), PLACES[module])
    text += ["};", "", "const unsigned int pinpoint_build_count = ARRAY_SIZE(pinpoint_builds);", ""]
    (directory / TABLE).write_text("\n".join(text))


def _build(number: int, elf: Elf, places: Sequence[SourcePlace]) -> Iterator[str]:
    """Yield the arrays of one build: sections, places, and the symbols for the module that relocates by hand."""
    probed = probed_sections(elf, places)
    functions = [each for each in elf.symbols if each.kind == "func" and each.section]
    others = dict.fromkeys(each.section for each in functions if each.section not in probed)
    yield f"static const char *const sections_of_{number}[] = {{"
    yield from (f"\t{_quoted(elf, section)}," for section in probed)
    yield "#ifdef PINPOINT_WITH_SYMBOLS"
    yield from (f"\t{_quoted(elf, section)}," for section in others)
    yield from ("#endif", "};", "", f"static const struct pinpoint_place places_of_{number}[] = {{")
    found = [each.locate(elf) for each in places]
    yield "#ifdef PINPOINT_WITH_SYMBOLS"
    yield from (
        f"\t{{ {probed.index(at.section)}, {at.function_offset:#x}, {_quoted(elf, at.function)} }}," for at in found
    )
    yield "#else"
    yield from (f"\t{{ {probed.index(at.section)}, {at.offset:#x} }}," for at in found)
    yield from ("#endif", "};", "", "#ifdef PINPOINT_WITH_SYMBOLS")
    yield f"static const struct pinpoint_symbol symbols_of_{number}[] = {{"
    order = [*probed, *others]
    for each in functions:
        yield f"\t{{ {_quoted(elf, each.name)}, {order.index(each.section)}, {elf.offset_in_section(each):#x} }},"
    yield from ("};", "#endif", "")


def _entry(number: int, elf: Elf, places: Sequence[SourcePlace]) -> Iterator[str]:
    if not elf.build_id:
        raise BuildError(f"{elf.path.name} has no build-id", mend="see probes/Kbuild and the kernel's headers")
    yield "\t{"
    yield f'\t\t.build_id = "{elf.build_id}",'
    yield f"\t\t.sections = sections_of_{number},"
    yield f"\t\t.probed_sections = {len(probed_sections(elf, places))},"
    yield f"\t\t.places = places_of_{number},"
    yield f"\t\t.place_count = ARRAY_SIZE(places_of_{number}),"
    yield "#ifdef PINPOINT_WITH_SYMBOLS"
    yield f"\t\t.symbols = symbols_of_{number},"
    yield f"\t\t.symbol_count = ARRAY_SIZE(symbols_of_{number}),"
    yield from ("#endif", "\t},")


def _quoted(elf: Elf, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise BuildError(f"{elf.path.name} has a section or symbol named {name!r}", mend="rename it")
    return f'"{name}"'
