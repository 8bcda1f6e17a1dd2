"""What an ELF file of a package needs to run: the dynamic linker that it names, and the libraries that it loads."""

from __future__ import annotations

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment


def interpreter_path(elf: ELFFile) -> str:
    """Return the path in PT_INTERP; empty for a file without one, such as a library."""
    for segment in elf.iter_segments("PT_INTERP"):
        assert isinstance(segment, InterpSegment)
        return str(segment.get_interp_name())
    return ""


def needed_libraries(elf: ELFFile) -> list[str]:
    """Return the names in DT_NEEDED, in order; empty for a static file."""
    dynamic = elf.get_section_by_name(".dynamic")
    if not isinstance(dynamic, DynamicSection):
        return []
    return [str(tag.needed) for tag in dynamic.iter_tags("DT_NEEDED")]  # type: ignore[attr-defined]
