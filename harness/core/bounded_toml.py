"""Parses TOML that other people may have written, in time and memory proportional to its size."""

from __future__ import annotations

import re
import tomllib
from typing import Any

_MOST_DOTS, _DEEPEST = 32, 32
_STRING = r'"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\''
# The part of a line in which it can have a key or the name of a table.
_KEY = re.compile(rf"[\t ]*\[{{0,2}}(?:{_STRING}|[^\"'=\]#])*")
_STRINGS = re.compile(_STRING)


def loads(text: str) -> dict[str, Any]:
    """Return the tables of a TOML text. Raises ValueError, also for a long dotted key and for deep nesting.

    tomllib takes time and memory that are quadratic in the number of parts of a key (_parser.py, key_value_rule(),
    Python 3.11), and nested values exhaust the stack of those who print them.
    """
    # Not splitlines(): it also splits inside a key, at characters that are no line end in TOML.
    for line in text.split("\n"):
        found = _KEY.match(line)
        if found and _STRINGS.sub("", found[0]).count(".") > _MOST_DOTS:
            raise ValueError(f"a key with more than {_MOST_DOTS} dots")
    try:
        content = tomllib.loads(text)
    except RecursionError:
        content = {}
        deep = True
    else:
        deep = _is_deep(content)
    if deep:
        raise ValueError(f"values in more than {_DEEPEST} others")
    return content


def _is_deep(content: dict[str, Any]) -> bool:
    level: list[Any] = [content]
    for _ in range(_DEEPEST):
        level = [
            below
            for each in level
            for below in (each.values() if isinstance(each, dict) else each)
            if isinstance(below, dict | list)
        ]
        if not level:
            return False
    return True
