"""The log of a console has a limit, reports that it was cut, and a full disk does not stop the console."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from harness.core.deadline import Deadline
from harness.guest.console import Console
from harness.guest.size_limited_console_log import ConsoleLog


def test_the_log_is_cut_at_its_limit_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    path.write_bytes(b"an earlier guest\n")
    log = ConsoleLog(path, limit=100)
    for _ in range(1000):
        log.write(b"x" * 64)
    log.close()
    assert path.read_bytes() == (
        b"an earlier guest\n" + b"x" * 100 + b"\n[pinpoint: the guest printed more than 100 bytes; the log ends here]\n"
    )


def test_only_the_owner_reads_it(tmp_path: Path) -> None:
    ConsoleLog(tmp_path / "console.log").close()
    assert (tmp_path / "console.log").stat().st_mode & 0o777 == 0o600


def test_a_full_disk_loses_the_log_and_not_the_console(tmp_path: Path) -> None:
    (tmp_path / "console.log").symlink_to("/dev/full")
    ours, guest = socket.socketpair()
    console = Console("a-vm", ours, tmp_path, ConsoleLog(tmp_path / "console.log"))
    guest.sendall(b"x" * 100000)
    deadline = Deadline.after(60)
    while console.position < 100000:
        deadline.require_time_left("arrival")
        time.sleep(0.001)
    guest.close()
    console.close()


def test_everything_in_the_socket_is_in_the_log(tmp_path: Path) -> None:
    ours, guest = socket.socketpair()
    console = Console("a-vm", ours, tmp_path, ConsoleLog(tmp_path / "console.log"))
    guest.sendall(b"y" * 150000 + b"last words")
    guest.close()
    console.close()
    assert (tmp_path / "console.log").read_bytes() == b"y" * 150000 + b"last words"
