"""Whatever a guest prints, it is read in linear time and by the deadline, hides no oops, and controls no terminal."""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.bench import console_parser_scaling
from harness.core.deadline import Deadline
from harness.core.errors import DeadlineExceeded, GuestError
from harness.guest import console_output_spill_file
from harness.guest.console import Console, Transcript
from harness.guest.guest import Guest
from harness.guest.terminal import Filter
from harness.images.kernel_defects import KernelDefects
from harness.landing.verify import traced_functions
from harness.matrix.cells.cell_phases_and_verdict import verdict_of_error
from harness.matrix.guests import check_after_cell, guest_state
from harness.matrix.guests.check_after_cell import KernelComplained, UnexplainedCrash
from harness.matrix.verify import systemtap_run
from harness.userspace.ways import UprobesByModule, UprobesByTracefs
from harness.verdict import complaint_kinds, complaints, printk, traces
from harness.verdict.cell_verdict_enum import Verdict
from harness.verdict.complaints import read_complaints
from harness.verdict.printk import read_records, without_control_codes

OOPS = (
    b"[    9.000000] BUG: unable to handle page fault for address: ffff8880\r\n[    9.000001] Oops: 0002 [#1] SMP\r\n"
)
MIB = 1 << 20
STATE = """\
/proc/modules:virtio_net 61440 0 - Live 0xffffffffc0000000
/proc/sys/kernel/tainted:{taint}
/proc/meminfo:Slab:             15472 kB
/proc/1/cmdline:init
"""


class Counting:
    """A compiled pattern that counts the characters handed to it."""

    def __init__(self, pattern: re.Pattern[str], work: list[int]) -> None:
        self._pattern = pattern
        self._work = work

    def __getattr__(self, name: str) -> object:
        method = getattr(self._pattern, name)
        if not callable(method):
            return method

        def counted(*given: object) -> object:
            # sub() has the text as its second argument.
            searched, *bounds = given[1:2] if name.startswith("sub") else given
            assert isinstance(searched, str)
            begin, end = (*bounds, *(0, len(searched))[len(bounds) :])
            assert isinstance(begin, int)
            assert isinstance(end, int)
            self._work.append(min(end, len(searched)) - begin)
            return method(*given)

        return counted


def work(monkeypatch: pytest.MonkeyPatch, unit: str, size: int) -> int:
    """Return how many characters all patterns of the readers are handed for a console of this size."""
    handed: list[int] = []
    with monkeypatch.context() as patch:
        for module in (printk, complaints, complaint_kinds, traces):
            for name, value in vars(module).items():
                if isinstance(value, re.Pattern):
                    patch.setattr(module, name, Counting(value, handed))
        floating = [(opening, Counting(pattern, handed)) for opening, pattern in complaint_kinds._FLOATING]
        patch.setattr(complaint_kinds, "_FLOATING", floating)
        console_parser_scaling.read_complaints_and_frames(console_parser_scaling.make_console_text(unit, size))
    return sum(handed)


@pytest.mark.parametrize("unit", console_parser_scaling.UNITS)
def test_the_work_of_reading_grows_as_the_size_does(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers that search the rest of a line again at each match do 4096 times the work for 64 times the input.

    Work within one search is not seen here: `./pinpoint bench` compares the times for 64 and 32 MiB.
    """
    small, large = (work(monkeypatch, unit, size) for size in (1 << 14, 1 << 20))
    # Carriage returns at the end of a line are cut off before any pattern sees them.
    assert small > 0
    assert large < 70 * max(small, 1 << 10)


@dataclass
class Line:
    """A console with the guest's end of it."""

    console: Console
    guest: socket.socket

    def send(self, content: bytes) -> None:
        """Send, and wait until it has arrived."""
        end = self.console.position + len(content)
        self.guest.sendall(content)
        deadline = Deadline.after(60)
        while self.console.position < end:
            deadline.require_time_left("arrival")
            time.sleep(0.001)


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    ours, its = socket.socketpair()
    made = Line(Console("a-vm", ours, tmp_path), its)
    yield made
    its.close()
    made.console.close()


def fenceable(line: Line, listing: str) -> Guest:
    """Return a guest whose commands print the fence's mark, as a kernel does, and return a listing."""
    guest = Guest.__new__(Guest)
    guest.__dict__.update(
        _emulator=SimpleNamespace(
            console=line.console, stopped=False, pid=os.getpid(), monitor=SimpleNamespace(is_guest_paused=False)
        ),
        _fencing=threading.Lock(),
        fence_position=0,
        used_up="",
        heartbeat=None,
        copied_files={},
        image=SimpleNamespace(
            recipe=SimpleNamespace(
                name="a-vm",
                boot_noise=(),
                defects=KernelDefects(),
                kernel=SimpleNamespace(source="debian-source"),
                machine=SimpleNamespace(memory_mib=512),
            )
        ),
    )

    def run_script(text: str, *_: object, **__: object) -> SimpleNamespace:
        if mark := re.search("pinpoint: fence [0-9a-f]+", text):
            line.send(b"[   10.000000] " + mark[0].encode() + b"\r\n")
        return SimpleNamespace(stdout=listing, ok=False, out=b"")

    guest.__dict__["run_script"] = run_script
    return guest


@pytest.mark.slow
def test_an_oops_that_memory_has_forgotten_is_read(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = fenceable(line, STATE.format(taint=0))
    monkeypatch.setattr(check_after_cell.loaded_targets, "names_of_kept_modules", lambda _: ())
    check_after_cell.record_state_before_first_cell(guest)
    line.send(OOPS)
    for _ in range(17):
        line.send(b"[    9.500000] an ordinary line that the kernel prints\r\n" * (MIB // 56))
    assert "Oops" not in line.console.text(), "this test floods too little"
    with pytest.raises(KernelComplained, match="unable to handle page fault"):
        check_after_cell.check_after_cell(guest)


def test_the_flood_between_fences_is_given_back_to_the_disk(line: Line) -> None:
    guest = fenceable(line, "")
    for _ in range(3):
        line.send(b"x" * MIB * 17)
        guest.read_output_since_fence(Deadline.after(60))
        guest.read_output_since_fence(Deadline.after(60))
    assert line.console._transcript._spilled.begin > 40 * MIB


def test_what_cannot_be_read_fails_the_cell(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line.console._transcript._spilled, "_limit", MIB)
    guest = fenceable(line, "")
    line.send(OOPS + b"x" * 17 * MIB)
    with pytest.raises(GuestError, match="its console cannot be read whole") as caught:
        guest.read_output_since_fence(Deadline.after(60))
    assert verdict_of_error(caught.value) is Verdict.HARNESS_ERROR


def test_a_full_disk_is_no_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(console_output_spill_file.os, "pwrite", full)
    transcript = Transcript(limit=100, spill=tmp_path)
    transcript.append(b"x" * 1000)
    with pytest.raises(LookupError):
        list(transcript.read_pieces(0))
    assert b"".join(transcript.read_pieces(900)) == b"x" * 100


@settings(deadline=None)
@given(
    st.lists(st.binary(max_size=300), max_size=30),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3000)), max_size=9),
)
def test_pieces_are_the_stream(parts: list[bytes], fences: list[tuple[int, int]]) -> None:
    transcript, whole, wanted = Transcript(limit=50), b"", 0
    for number, part in enumerate(parts):
        transcript.append(part)
        whole += part
        for when, position in fences:
            if when == number and wanted <= position <= len(whole):
                wanted = position
                transcript.drop_before(position)
    assert b"".join(transcript.read_pieces(wanted)) == whole[wanted:]
    transcript.close_file()


@pytest.mark.parametrize("letter", "DWBLM")
def test_a_taint_without_a_complaint_fails_the_cell(line: Line, monkeypatch: pytest.MonkeyPatch, letter: str) -> None:
    monkeypatch.setattr(check_after_cell.loaded_targets, "names_of_kept_modules", lambda _: ())
    bit = guest_state._TAINTS.index(letter)
    clean = fenceable(line, STATE.format(taint=4096))
    check_after_cell.record_state_before_first_cell(clean)
    tainted = fenceable(line, STATE.format(taint=4096 | 1 << bit))
    check_after_cell._clean[tainted] = check_after_cell._clean[clean]
    with pytest.raises(UnexplainedCrash, match=f"new taint {letter}") as caught:
        check_after_cell.check_after_cell(tainted)
    assert verdict_of_error(caught.value) is Verdict.OOPS


def test_a_process_that_ends_on_the_guests_clock_is_waited_for(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline has expired at once, as on a host that takes its processors away while the guest's clock stands."""
    monkeypatch.setattr(check_after_cell.loaded_targets, "names_of_kept_modules", lambda _: ())
    monkeypatch.setattr(check_after_cell, "GONE_SECONDS", 0.0)
    left = STATE.format(taint=0) + "/proc/97/cmdline:timeout\0005\n"
    clean, ends, stays = fenceable(line, STATE.format(taint=0)), fenceable(line, left), fenceable(line, left)
    check_after_cell.record_state_before_first_cell(clean)
    for guest in (ends, stays):
        check_after_cell._clean[guest] = check_after_cell._clean[clean]
    commands: list[str] = []

    def run_script(text: str, *_: object, **__: object) -> SimpleNamespace:
        commands.append(text)
        mark = re.search("pinpoint: fence [0-9a-f]+", text)
        line.send(b"[   10.000000] " + (mark[0] if mark else "").encode() + b"\r\n")
        return SimpleNamespace(stdout=left if len(commands) < 10 else STATE.format(taint=0), ok=False, out=b"")

    ends.__dict__["run_script"] = run_script
    assert check_after_cell.check_after_cell(ends) == ""
    assert sum("sleep 0.1" in text for text in commands) >= 5
    with pytest.raises(check_after_cell.GuestStateChanged, match="process timeout"):
        check_after_cell.check_after_cell(stays)


def test_a_forced_removal_only_wears_the_guest(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_after_cell.loaded_targets, "names_of_kept_modules", lambda _: ())
    clean, forced = (fenceable(line, STATE.format(taint=taint)) for taint in (0, 1 << guest_state._TAINTS.index("R")))
    check_after_cell.record_state_before_first_cell(clean)
    check_after_cell._clean[forced] = check_after_cell._clean[clean]
    assert check_after_cell.check_after_cell(forced) == "taint R"
    clean.used_up = "modules with 41726 probes"
    assert check_after_cell.check_after_cell(clean) == "modules with 41726 probes"


@pytest.mark.parametrize("unit", [b"p", b"\r", b"pinpoint: fence ", b"Kernel panic - not syncing"])
def test_a_deadline_holds_on_a_console_without_newlines(line: Line, unit: bytes) -> None:
    line.send(unit * (4 * MIB // len(unit)))
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        line.console.await_line(["pinpoint: fence 0123\r?\n"], Deadline.after(0.5))
    assert time.monotonic() - began < 10


def test_a_fence_is_found_behind_a_line_without_end(line: Line) -> None:
    guest = fenceable(line, "")
    line.send(b"first\r\n" + b"." * MIB)
    assert guest.read_output_since_fence(Deadline.after(60)).startswith("first\n" + "." * MIB)
    line.send(b"second\r\n")
    assert guest.read_output_since_fence(Deadline.after(60)) == "second\n"


@pytest.mark.parametrize("before", ["6,1,1,-;x\r\n", "6,1," + "9" * 5000 + ",-;x\r\n", "<12>", "x <15>", "\r\n<8>"])
def test_no_program_hides_an_oops_by_the_form_of_another_log(before: str) -> None:
    console = f"{before}[    1.000000] BUG: unable to handle page fault for address: 0\r\n"
    for log in (console, console.splitlines(keepends=True)):
        assert [str(each) for each in read_complaints(log, timed=True)]


HUGE = "9" * 5000


@pytest.mark.parametrize(
    "read",
    [
        lambda: traced_functions.parse_enabled_functions(f"f ({HUGE})\n"),
        lambda: systemtap_run._use_counts(f"x 1 {HUGE} - Live 0x0"),
        lambda: systemtap_run._use_counts("x 1 \u00b2 - Live 0x0"),
        lambda: UprobesByModule(None)._parsed("hit=0 pid=x\n"),  # type: ignore[arg-type]
        lambda: UprobesByTracefs(None)._parsed(f"x-{HUGE} : s0: (0x0)\n"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_listing_is_the_guests_error(read: Callable[[], object]) -> None:
    with pytest.raises(GuestError, match="cannot be read"):
        read()


def test_a_time_of_any_length_is_read() -> None:
    assert list(read_records("6,1," + "9" * 5000 + ",-;x\n"))


def test_an_oops_behind_a_line_without_end_is_read() -> None:
    text = "." * MIB + OOPS.decode()
    assert [str(each) for each in read_complaints(text, timed=True)]
    assert max(len(record.text) for record in read_records("[    1.000000] " + "x" * MIB + "\n")) <= 2048


INJECTIONS = {
    "a code of eight bits in two": b"\xc2\x00\x9d52;c;AAAA\x07",
    "the same with DEL": b"\xc2\x7f\x9b2J",
    "a raw code of eight bits": b"\x9b2J",
    "the raw string": b"\x9d0;title\x9c",
    "overlong": b"\xc0\x9b2J",
    "turned round": "\u202eabc\u2066".encode(),
    "line separators": "a\u2028b\u2029".encode(),
    "tags": "\U000e0041".encode(),
    "nested": b"\x1b\x1b[\x1b]0;x\x07]0;x\x07",
    "a private question": b"\x1b[>c\x1b[6n\x1b[?6n\x1b]11;?\x1b\\",
    "a code within a sequence": b"\x1b[3\x071m",
}
ALLOWED = re.compile(r"\x1b\[[0-9;]*[ABCDEFGHJKLMPSTX@dfmr]|\x1b\[\?(?:25|2004)[hl]|[\a\b\t\n\r]")


def harmless(shown: bytes) -> bool:
    return ALLOWED.sub("", shown.decode()).isprintable()


@pytest.mark.parametrize("name", INJECTIONS)
def test_no_terminal_obeys_a_guest(name: str) -> None:
    content = INJECTIONS[name]
    for cut in range(len(content) + 1):
        terminal = Filter()
        assert harmless(terminal.feed(content[:cut]) + terminal.feed(content[cut:]) + terminal.feed(b"z" * 5000))


@settings(deadline=None)
@given(st.lists(st.binary(max_size=20) | st.sampled_from([*INJECTIONS.values(), b"\x1b[31m", b"\xe2\x82"])))
def test_only_printable_text_colors_and_line_editing_pass(parts: list[bytes]) -> None:
    terminal = Filter()
    assert harmless(b"".join(terminal.feed(part) for part in parts))


def test_text_passes_however_it_is_cut() -> None:
    text = "grün \x1b[1;31mrot\x1b[0m 終 \x1b[K\r\n"
    terminal = Filter()
    assert b"".join(terminal.feed(bytes([byte])) for byte in text.encode()).decode() == text


def test_no_character_without_a_shape_is_printed() -> None:
    """Text of a guest or a bundle that is printed in a line has no code that hides or reorders what is around it."""
    hidden = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    found = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) in hidden]
    assert len(found) > 100_000
    assert set(without_control_codes("".join(found))) == {"\t", "\n"}
    assert without_control_codes("gr\xfc\xdf \u7d42 a\u0301") == "gr\xfc\xdf \u7d42 a\u0301"
