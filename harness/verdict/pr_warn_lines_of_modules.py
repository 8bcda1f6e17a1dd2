"""Lines that begin with `WARNING: ` and that a module prints by itself: pr_warn(), not the kernel's WARN()."""

from __future__ import annotations

import re
from collections.abc import Collection

from harness.core.elf import Elf
from harness.verdict import deliberate_dump_stack
from harness.verdict.complaint_kinds import ComplaintKind, opening_of
from harness.verdict.complaints import Complaint

# A string of the module's data, behind KERN_SOH and the level (include/linux/kern_levels.h) if it has one.
_STRING = re.compile(rb"(?:(?<=\0)|\A)(?:\x01[0-7c])?(WARNING: [\x20-\x7e]+)")
# What __warn() prints (kernel/panic.c, 6.1), and __WARN_trap's line since 6.18: the place, and the processor.
_WARN = re.compile(r"WARNING: .*(?:\bCPU: ?\d|\bCPU#\d|\bPID: ?\d|\bat \S+(?::\d+|\+0x))")
# A format such as "WARNING: %s" would match each line that the kernel's own code prints.
_SHORTEST = len("WARNING: ") + 4


def warning_texts_in_module_file(module: Elf) -> frozenset[str]:
    """Return the formats in a module's data that begin with `WARNING: `, each up to its first conversion."""
    found: set[str] = set()
    for section in module.allocated_sections:
        if section.in_file and section.name not in module.duplicated_section_names:
            data = module.section_bytes(section.name, 0, section.size)
            found.update(match[1].decode("ascii").partition("%")[0] for match in _STRING.finditer(data))
    return frozenset(text for text in found if len(text) >= _SHORTEST)


def is_warning_printed_by_module(
    complaint: Complaint, texts: Collection[str], backtrace_printing_modules: Collection[str]
) -> bool:
    """Return True if the complaint is a line that a module with these formats prints, and no form of a WARN.

    Backtraces before it and behind it must be intended ones of `backtrace_printing_modules`. A WARN begins with
    `[ cut here ]`, and its line shows the processor.
    """
    if complaint.kind is not ComplaintKind.WARNING:
        return False
    openings = [(opening, line) for line in complaint.lines if (opening := opening_of(line))]
    traces = [opening for opening, _ in openings if opening.kind is ComplaintKind.TRACE]
    others = [line for opening, line in openings if opening.kind is not ComplaintKind.TRACE]
    if not all(line.startswith(tuple(texts)) and not _WARN.match(line) for line in others):
        return False
    return not traces or deliberate_dump_stack.traces_are_intended(complaint, backtrace_printing_modules)
