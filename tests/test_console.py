"""The console reads what a guest sends; the tests are at the guest's end of it."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.core import paths
from harness.core.deadline import Deadline
from harness.core.errors import DeadlineExceeded, GuestLost
from harness.guest import console
from harness.guest.console import Console, Transcript

SOON = 60.0


class Line:
    """A console with the guest's end of it."""

    def __init__(self) -> None:
        ours, self.guest = socket.socketpair()
        self.console = Console("a-vm", ours)

    def send(self, content: bytes) -> None:
        self.guest.sendall(content)

    def settle(self, position: int) -> None:
        """Wait until this many bytes have arrived."""
        deadline = Deadline.after(SOON)
        while self.console.position < position:
            deadline.require_time_left("arrival")
            time.sleep(0.001)


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    made.guest.close()
    made.console.close()


def test_line_that_comes_before_it_is_awaited(line: Line) -> None:
    line.send(b"booting\r\npinpoint: ready\r\n")
    line.settle(26)
    match = line.console.await_line(["panic", "pinpoint: ready"], Deadline.after(SOON))
    assert (match.pattern_index, match.text) == (1, "pinpoint: ready")


def test_line_that_comes_in_pieces(line: Line) -> None:
    def send_slowly() -> None:
        for byte in b"noise\r\npinpoint: ready\r\nmore":
            line.send(bytes([byte]))

    threading.Thread(target=send_slowly).start()
    match = line.console.await_line(["pinpoint: ready"], Deadline.after(SOON))
    assert (match.start, match.end) == (7, 22)


def test_text_is_typed_in_parts_if_the_port_takes_no_more(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    arrived: list[bytes] = []
    monkeypatch.setattr(console.time, "sleep", lambda _: arrived.append(line.guest.recv(4096)))
    line.console.type(b"ssh-rsa AAAAB3 root\n", at_once=8)
    assert arrived == [b"ssh-rsa ", b"AAAAB3 r", b"oot\n"]
    monkeypatch.undo()
    line.console.type(b"ssh-rsa AAAAB3 root\n")
    assert line.guest.recv(4096) == b"ssh-rsa AAAAB3 root\n"


def test_first_match_in_the_stream_wins(line: Line) -> None:
    line.send(b"Kernel panic - not syncing: no init\r\npinpoint: ready\r\n")
    match = line.console.await_line(["pinpoint: ready", r"Kernel panic[^\r\n]*"], Deadline.after(SOON))
    assert (match.pattern_index, match.text) == (1, "Kernel panic - not syncing: no init")


def test_only_what_comes_after_a_position_counts(line: Line) -> None:
    line.send(b"mark 1\r\n")
    first = line.console.await_line([r"mark \d\r\n"], Deadline.after(SOON))
    line.send(b"between\r\nmark 2\r\n")
    second = line.console.await_line([r"mark \d\r\n"], Deadline.after(SOON), since=first.end)
    assert second.text == "mark 2\n"
    assert line.console.text(first.end, second.start) == "between\n"


def test_silence_ends_at_the_deadline(line: Line) -> None:
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="ready"):
        line.console.await_line(["ready"], Deadline.after(0.2))
    assert time.monotonic() - began < SOON / 2


def test_unending_noise_ends_at_the_deadline(line: Line) -> None:
    ended = threading.Event()

    def chatter() -> None:
        while not ended.is_set():
            line.send(b"x" * 1000)

    thread = threading.Thread(target=chatter)
    thread.start()
    try:
        with pytest.raises(DeadlineExceeded):
            line.console.await_line(["ready"], Deadline.after(0.3))
    finally:
        ended.set()
        thread.join()


def test_closed_console_is_a_lost_guest(line: Line) -> None:
    line.send(b"last words")
    line.guest.close()
    with pytest.raises(GuestLost):
        line.console.await_line(["ready"], Deadline.after(SOON))
    assert line.console.text() == "last words"


def test_stopped_guest_is_noticed_though_its_console_stays_open(line: Line) -> None:
    line.send(b"panic\r\n")
    line.console.end_waits_soon()
    began = time.monotonic()
    with pytest.raises(GuestLost):
        line.console.await_line(["ready"], Deadline.after(SOON))
    assert time.monotonic() - began < SOON / 2
    assert line.console.last_lines() == ["panic"]


def test_binary_garbage_hides_nothing(line: Line) -> None:
    garbage = os.urandom(100_000).replace(b"pinpoint", b"")
    threading.Thread(target=line.send, args=(garbage + b"\r\npinpoint: ready\r\n" + b"\xff\xfe\x00",)).start()
    assert line.console.await_line(["pinpoint: ready"], Deadline.after(SOON)).start == 100_002
    assert "\ufffd" in line.console.text()


def test_flood_is_drained_within_bounded_memory() -> None:
    """The flood is read in a separate process, because other tests use memory in this one."""
    places = f"{paths.PROJECT}:{Path(__file__).parent}"
    words = [sys.executable, "-c", "import test_console; test_console.flooded(test_console.Line())"]
    done = subprocess.run(
        words, env={**os.environ, "PYTHONPATH": places}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


def flooded(line: Line) -> None:
    """Send 100 MB at once to a reader that waits for the line after them."""
    block = b"[   12.345678] a line as a looping driver prints it, over and over again\r\n" * 14_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def flood() -> None:
        for _ in range(100):
            line.send(block)
        line.send(b"\r\npinpoint: ready\r\n")

    thread = threading.Thread(target=flood)
    thread.start()
    match = line.console.await_line(["pinpoint: ready"], Deadline.after(2 * SOON))
    thread.join()
    assert match.start == 100 * len(block) + 2
    assert match.start > 100_000_000
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 80_000, f"{grown} KiB more for a flood of 100 MB"


def test_transcript_keeps_positions_when_it_forgets() -> None:
    transcript = Transcript(limit=100)
    for number in range(100):
        transcript.append(b"%09d\n" % number)
    assert transcript.end_position == 1000
    assert transcript.read_from_memory(990) == b"000000099\n"
    assert transcript.read_from_memory(0).endswith(b"000000099\n")
    assert 100 <= len(transcript.read_from_memory(0)) <= 200
    assert transcript.read_from_memory(970, 980) == b"000000097\n"
