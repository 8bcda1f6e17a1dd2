"""The pages of the docs in pieces: fenced and indented code, paragraphs, list items and table rows."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence

from harness.core import paths

PAGES = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (paths.PROJECT / "docs").glob("*.md")))
_ITEM = re.compile(r"\s*(?:[-*]|\d+\.) ")
_INLINE = re.compile(r"`([^`]+)`")


@functools.cache
def blocks(page: str) -> Sequence[tuple[str, str]]:
    """Return each block of a page with its kind: the language of a fence, or `code`, or `text`."""
    return tuple(_blocks((paths.PROJECT / page).read_text()))


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    kind, held = "text", list[str]()
    for line in [*text.splitlines(), ""]:
        fence = line.startswith("```")
        if kind != "text" and not fence:
            held.append(line)
            continue
        indented = line.startswith("    ") and (not held or held[0].startswith("    "))
        ends = fence or not line.strip() or line.startswith(("|", "#")) or _ITEM.match(line)
        if held and (ends and not indented):
            yield ("code" if kind == "text" and held[0].startswith("    ") else kind), "\n".join(held)
            held = []
        if fence:
            kind = (line[3:].strip() or "code") if kind == "text" else "text"
        elif line.strip():
            held.append(line)


def inline_code(block: str) -> list[str]:
    """Return the code in backticks of one block, each piece in one line."""
    return _INLINE.findall(" ".join(block.split()))


def code_lines(page: str) -> Iterator[str]:
    """Yield each line of code of a page, in fences, indented, and in backticks."""
    for kind, block in blocks(page):
        if kind == "text":
            yield from inline_code(block)
        else:
            yield from (line.strip() for line in block.splitlines())
