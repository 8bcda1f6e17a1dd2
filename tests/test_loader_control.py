"""The Python side of the loader writes orders, reads replies, and holds a dialogue over a real channel."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from typing import IO

import paramiko
import pytest
from ssh_server import SOON, Server, end

from harness.core.deadline import Deadline
from harness.core.errors import DeadlineExceeded, GuestError, GuestLost
from harness.guest.pexpect_over_ssh import Dialogue
from harness.pinning.loader import LoaderExitStatus, LoaderLine, LoaderOrder, LoaderResult
from harness.pinning.mutants import MUTANTS


def run_locally(channel: paramiko.Channel, command: str) -> None:
    """Run a process with the channel as its standard streams, and forward each line when it arrives."""
    pipe = subprocess.PIPE
    with subprocess.Popen(["/bin/sh", "-c", command], stdin=pipe, stdout=pipe, bufsize=0) as process:
        assert process.stdin
        assert process.stdout
        threading.Thread(target=feed, args=(channel, process.stdin), daemon=True).start()
        while output := process.stdout.read(1 << 16):
            channel.sendall(output)
    if process.returncode < 0:
        channel.close()  # dropbear sends no status for a process that was killed by a signal.
    else:
        end(channel, process.returncode)


def feed(channel: paramiko.Channel, stdin: IO[bytes]) -> None:
    while output := channel.recv(1 << 16):
        stdin.write(output)
    stdin.close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    made.behavior = run_locally
    yield made
    made.die()


def talk(server: Server, script: str) -> Dialogue:
    return Dialogue("a-vm", server.link(), ["sh", "-c", script], soon())


def soon() -> Deadline:
    return Deadline.after(SOON)


def test_an_order_in_words() -> None:
    order = LoaderOrder(
        targets=["a", "b"],
        sections=[("a", ".text")],
        gates=["load"],
        module_name="c",
        load_from_memory=True,
        user_id=7,
        mutant="m",
    )
    assert order.command_line_options() == [
        "-t",
        "a",
        "-t",
        "b",
        "-s",
        "a:.text",
        "-g",
        "load",
        "-n",
        "c",
        "-u",
        "7",
        "-x",
        "m",
        "-m",
    ]
    assert LoaderOrder(hold_until_removed=True).command_line_options() == ["-w"]


def test_lines() -> None:
    assert LoaderLine.parse("at load probe") == LoaderLine("at", "load", "probe")
    assert LoaderLine.parse("did begin probe pid=7") == LoaderLine("did", "begin", "probe", {"pid": "7"})
    assert LoaderLine.parse("did close tokens=2") == LoaderLine("did", "close", "", {"tokens": "2"})
    with pytest.raises(GuestError, match="not a line of the loader's"):
        LoaderLine.parse("sh: pinpoint_loader: not found")


def test_how_it_ended_is_reported() -> None:
    steps = (
        LoaderLine("did", "begin", "probe", {"pid": "7"}),
        LoaderLine("failed", "load", "probe", {"errno": "ESTALE"}),
    )
    assert str(LoaderResult(LoaderExitStatus.LOAD, steps)) == "LOAD probe ESTALE"
    assert str(LoaderResult(LoaderExitStatus.KILLED, steps[:1])) == "KILLED"
    assert LoaderResult(LoaderExitStatus.DONE, steps[:1]).errno_name == ""


def test_mutants_break_orders_and_leave_the_rest() -> None:
    order = LoaderOrder(targets=["a"], parameters=["keeps=1"])
    assert MUTANTS["closes-early"].break_order(order) == LoaderOrder(
        targets=["a"], parameters=["keeps=1"], mutant="closes-early"
    )
    assert MUTANTS["no-name"].break_order(order).parameters == ["keeps=1", "mutant=no-name"]


def test_a_dialogue_line_by_line(server: Server) -> None:
    with talk(server, "echo at gate; read word; echo did $word; exit 7") as dialogue:
        assert dialogue.read_line(soon()) == "at gate"
        dialogue.send_line("go", soon())
        assert dialogue.read_line(soon()) == "did go"
        assert dialogue.read_line(soon()) is None
        assert dialogue.await_exit_status(soon()) == 7


def test_silence_is_reported_without_waiting(server: Server) -> None:
    with talk(server, "read word; echo $word") as dialogue:
        with pytest.raises(DeadlineExceeded, match="printed nothing in time"):
            dialogue.read_line(Deadline.after(0.2))
        dialogue.send_line("late", soon())
        assert dialogue.read_line(soon()) == "late"


def test_hanging_up_ends_what_waits(server: Server) -> None:
    with talk(server, "read word || echo end of input") as dialogue:
        dialogue.close_input()
        assert dialogue.read_line(soon()) == "end of input"


def test_a_killed_program_is_no_lost_guest(server: Server) -> None:
    with talk(server, "kill -9 $$") as dialogue:
        assert dialogue.read_line(soon()) is None
        assert dialogue.await_exit_status(soon()) == -1


def test_a_guest_that_stops_is_reported(server: Server) -> None:
    with talk(server, "echo here; read word") as dialogue:
        assert dialogue.read_line(soon()) == "here"
        server.die()
        assert dialogue.read_line(soon()) is None
        with pytest.raises(GuestLost):
            dialogue.await_exit_status(soon())
