"""Console and dmesg text as the kernel's own records, separated from what user space wrote between them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

# kernel/printk/printk.c, info_print_prefix(), 6.1: `<level>` (syslog readers only), `[seconds]` (printk.time),
# `[  T1]` or `[  C0]` (CONFIG_PRINTK_CALLER), one space. It begins with a literal here so that searching is quick.
_PREFIX = re.compile(r"\[ {0,4}(?P<seconds>\d{1,10}\.\d{6})\](?:\[ {0,5}[TC]\d{1,10}\])? ?")
# /dev/kmsg: `priority,sequence,microseconds,flags[,...];text`
_KMSG = re.compile(r"(?P<level>\d{1,3}),\d+,(?P<microseconds>\d+),[^;\s]{1,40};")
_LEVEL = re.compile(r"<(?P<level>\d{1,3})>")
_LEVEL_BEFORE = re.compile(r"<(?P<level>\d{1,3})>$")
# ECMA-48 control sequences and strings, as a colourful init or firmware prints them, and other control codes: those of
# seven and of eight bits, and Unicode's own that end a line or turn its direction round.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-Z\\^-~])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
_LINE_END = re.compile(r"\r*\n")
_USER_FACILITY = 8


@dataclass(frozen=True)
class Record:
    """One line the kernel printed.

    `seconds` is its printk time, None where the kernel prints none; `cut` is true where the log ends before the line.
    """

    text: str
    seconds: float | None
    cut: bool = False


def plain(text: str) -> str:
    """The text without escape sequences and control codes other than tab and newline."""
    return text if text.isprintable() else _CONTROLS.sub("", _ESCAPES.sub("", text))


def records(log: str | bytes, *, timed: bool | None = None) -> Iterator[Record]:
    """The kernel's records in a console log, `dmesg`, `dmesg -r` or /dev/kmsg; never raises, wherever the log is cut.

    On a console whose kernel prints times (`timed`; None: detected from the log) a line without one is not the
    kernel's: programs share the console. A program that writes to /dev/kmsg instead gets a time, but also a facility
    (devkmsg_write() enforces LOG_USER), which `dmesg -r` shows and by which such records are left out here.
    """
    text = log.decode(errors="replace") if isinstance(log, bytes) else log
    lines = _LINE_END.split(text)
    form = _form(lines, timed)
    last = lines.pop()
    for line in lines:
        yield from form(plain(line))
    for record in form(plain(last)):
        yield replace(record, cut=True)


def _form(lines: list[str], timed: bool | None) -> Callable[[str], Iterator[Record]]:
    """How this log's lines are read. /dev/kmsg's form only where the log begins with it: programs could imitate it."""
    if _KMSG.match(next((line for line in lines if line.strip()), "")):
        return _of_kmsg_line
    return _of_timed_line if (_is_timed(lines) if timed is None else timed) else _of_untimed_line


def _is_timed(lines: list[str]) -> bool:
    """Does this kernel print times? Its banner shows it; in a log without one, any line with a time does."""
    for line in lines:
        if "Linux version " in line:
            return _PREFIX.search(plain(line)) is not None
    return any(_PREFIX.search(line) for line in lines)


def _of_kmsg_line(line: str) -> Iterator[Record]:
    match = _KMSG.match(line)
    if match and int(match["level"]) < _USER_FACILITY:
        yield Record(line[match.end() :], int(match["microseconds"]) / 1e6)


def _of_untimed_line(line: str) -> Iterator[Record]:
    level = _LEVEL.match(line)
    if level is None or int(level["level"]) < _USER_FACILITY:
        yield Record(line[level.end() :] if level else line, None)


def _of_timed_line(line: str) -> Iterator[Record]:
    """A line holds one record, or several when a program's unfinished line stands before one."""
    prefixes = list(_PREFIX.finditer(line))
    for prefix, following in zip(prefixes, [*prefixes[1:], None], strict=False):
        level = _LEVEL_BEFORE.search(line, 0, prefix.start())
        if level is None or int(level["level"]) < _USER_FACILITY:
            yield Record(line[prefix.end() : following.start() if following else None], float(prefix["seconds"]))
