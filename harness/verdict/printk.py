"""Console and dmesg text as the kernel's own records, separated from what user space wrote between them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

# kernel/printk/printk.c, info_print_prefix(), 6.1: `<level>` (syslog readers only), `[seconds]` (printk.time),
# `[  T1]` or `[  C0]` (CONFIG_PRINTK_CALLER), one space. It begins with a literal here so that searching is quick.
_PREFIX = re.compile(r"\[ {0,4}(?P<seconds>\d{1,10}\.\d{6})\](?:\[ {0,5}[TC]\d{1,10}\])? ?")
# /dev/kmsg: `priority,sequence,microseconds,flags[,...];text`
_KMSG = re.compile(r"(?P<level>\d{1,3}),\d+,(?P<microseconds>\d+),[^;\s]{1,40};")
_LEVEL = re.compile(r"<(?P<level>\d{1,3})>")
_LEVEL_BEFORE = re.compile(r"<(?P<level>\d{1,3})>$")
_LONGEST_LEVEL = len("<123>")
# ECMA-48 control sequences and strings, as an init or firmware that prints colors uses them. Then other control codes:
# those of seven and of eight bits, and those of Unicode that end a line, change the direction of text or have no shape,
# among them tags and private codes.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-Z\\^-~])")
_CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u2028-\u202e"
    r"\u2060-\u206f\ud800-\uf8ff\ufeff\ufff9-\ufffb\ufffe\uffff\U000110bd\U000110cd\U00013430-\U0001345f"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U0010ffff]"
)
# What a console prints, without a prefix, for records that the ring buffer lost before it printed them
# (call_console_driver(), kernel/printk/printk.c, 6.1; the same text from 5.10 to 7.3).
_DROPPED = re.compile(r"\*\* \d{1,20} printk messages dropped \*\*")
_USER_FACILITY = 8
# A record's text is at most this long (PRINTK_MESSAGE_MAX, kernel/printk/internal.h, 6.6; LOG_LINE_MAX is 1 KiB, 6.1).
# Anything after it on its line was written by a program.
_LONGEST_TEXT = 2048


@dataclass(frozen=True)
class PrintkRecord:
    """One line that the kernel printed.

    `seconds` is its printk time, None if the kernel prints none. `cut` is true if the log ends within the line.
    """

    text: str
    seconds: float | None
    cut: bool = False


def without_control_codes(text: str) -> str:
    """Return the text without escape sequences, and without control codes other than tab and newline."""
    return text if text.isprintable() else _CONTROLS.sub("", _ESCAPES.sub("", text))


def line_without_control_codes(text: str) -> str:
    """Return the text as one line without control codes."""
    return " ".join(without_control_codes(text).split())


def read_raw_log_lines(log: Path) -> Iterator[str]:
    """Yield the lines of a log file, each with its newline; invalid UTF-8 becomes replacement characters."""
    with log.open("rb") as stream:
        for line in stream:
            yield line.decode(errors="replace")


def read_records(log: str | bytes | Iterable[str], *, timed: bool | None = None) -> Iterator[PrintkRecord]:
    """Yield the kernel's records of a console log, `dmesg`, `dmesg -r` or /dev/kmsg; never raises, wherever it is cut.

    A log may also be an iterable of lines, each with its newline except perhaps the last; then `timed` must be set.

    Programs share the console. If the kernel prints times (`timed`; None detects it from the log), a line without a
    time is not the kernel's. A record that a program writes to /dev/kmsg has a time, but also a facility
    (devkmsg_write() enforces LOG_USER). `dmesg -r` prints the facility, and such records are left out here. A console
    (`timed` is true) has neither levels nor the form of /dev/kmsg: a program could print them there to hide a record.
    """
    text = log.decode(errors="replace") if isinstance(log, bytes) else log
    console = timed is True
    if isinstance(text, str):
        timed = _is_timed(_split(text)) if timed is None else timed
        lines = _split(text)
    else:
        lines = iter(text)
    form = _of_timed_line if timed else _of_untimed_line
    if console:
        form = _of_console_line
    begun = console
    for line in lines:
        if not begun and line.strip():
            begun = True
            # Only the first line decides: a program could print this form later.
            form = _of_kmsg_line if _KMSG.match(line) else form
        for record in form(without_control_codes(line.removesuffix("\n").rstrip("\r"))):
            short = record if len(record.text) <= _LONGEST_TEXT else replace(record, text=record.text[:_LONGEST_TEXT])
            yield short if line.endswith("\n") else replace(short, cut=True)


def _split(text: str) -> Iterator[str]:
    """Yield the lines of a text, each with its newline; the last is the text after the last newline, even if empty."""
    begin = 0
    while end := text.find("\n", begin) + 1:
        yield text[begin:end]
        begin = end
    yield text[begin:]


def _is_timed(lines: Iterator[str]) -> bool:
    """Return True if this kernel prints times: its banner has one or, in a log without the banner, any line does."""
    found = False
    for line in lines:
        if "Linux version " in line:
            return _PREFIX.search(without_control_codes(line)) is not None
        found = found or _PREFIX.search(line) is not None
    return found


def _of_kmsg_line(line: str) -> Iterator[PrintkRecord]:
    match = _KMSG.match(line)
    if match and int(match["level"]) < _USER_FACILITY:
        yield PrintkRecord(line[match.end() :], float(match["microseconds"]) / 1e6)


def _of_untimed_line(line: str) -> Iterator[PrintkRecord]:
    level = _LEVEL.match(line)
    if level is None or int(level["level"]) < _USER_FACILITY:
        yield PrintkRecord(line[level.end() :] if level else line, None)


def _of_console_line(line: str) -> Iterator[PrintkRecord]:
    """Yield the records of a console's line: more than one if records follow each other without a newline.

    The kernel's note that it dropped records counts as one, though it has no time, and though a program could print it.
    """
    dropped = _DROPPED.search(line)
    if dropped:
        yield PrintkRecord(dropped[0], None)
    yield from _of_timed_line(line, levels=False)


def _of_timed_line(line: str, *, levels: bool = True) -> Iterator[PrintkRecord]:
    """Yield the records of a line; with `levels` those that a program wrote are left out."""
    found = _PREFIX.finditer(line)
    prefix = next(found, None)
    while prefix:
        following = next(found, None)
        level = _LEVEL_BEFORE.search(line, max(0, prefix.start() - _LONGEST_LEVEL), prefix.start()) if levels else None
        if level is None or int(level["level"]) < _USER_FACILITY:
            yield PrintkRecord(line[prefix.end() : following.start() if following else None], float(prefix["seconds"]))
        prefix = following
