"""Compares how two cells failed: by verdict and reason, without the parts that differ in every guest."""

from __future__ import annotations

import re

from harness.report.record import Cell

# Applied in this order. What each pattern matches differs between boots and is unrelated to the failure. A number after
# a plus is an offset into a function and is kept.
_CHANGING = (
    (re.compile(r"(?<!\+)\b0x[0-9a-f]{6,16}\b"), "ADDRESS"),
    # A register or a word of memory without 0x; a random name.
    (re.compile(r"(?<![\w+])(?=[0-9a-f]*\d)[0-9a-f]{8}(?:[0-9a-f]{8})?\b"), "ADDRESS"),
    (re.compile(r"\[ *\d+\.\d{6}\]"), "[TIME]"),
    # A hang: how long it was watched, and where samples of a running CPU happened to find it.
    (re.compile(r"\bno heartbeat for \d.*"), "no heartbeat"),
    (re.compile(r"\b\d+(?:\.\d+)? ?(?:s|ms|us|seconds?|jiffies)\b"), "TIME"),
    (re.compile(r"\b(?:pid|PID)[ :]+\d+"), "PID"),
    (re.compile(r"\b(CPU)[#: ]+\d+"), r"\1"),
    (re.compile(r"\b(the loader|process|task|loader) \d+"), r"\1 PID"),
    (re.compile(r"\[#\d+\]"), "[#N]"),
    (re.compile(r"/tmp/[\w./-]+"), "/tmp/FILE"),
)


def remove_varying_parts(reason: str) -> str:
    """Return a reason without addresses, times, process and CPU numbers."""
    for pattern, word in _CHANGING:
        reason = pattern.sub(word, reason)
    return reason


def cells_have_same_failure(first: Cell, second: Cell) -> bool:
    """True when both cells ended in the same verdict for the same reason."""
    return (first.verdict, remove_varying_parts(first.reason)) == (second.verdict, remove_varying_parts(second.reason))
