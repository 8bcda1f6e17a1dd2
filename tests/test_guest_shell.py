"""The resident shell of a guest works with a real shell on this host."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import paramiko
import pytest
from ssh_server import SOON, Server, end

from harness.core.deadline import Deadline
from harness.core.errors import DeadlineExceeded, GuestError, GuestLost
from harness.guest.resident_shell_over_ssh import Shell


def run_locally(channel: paramiko.Channel, command: str) -> None:
    """Run a process with the channel as its standard streams, as dropbear does."""
    pipe = subprocess.PIPE
    with subprocess.Popen(["/bin/sh", "-c", command], stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0) as process:
        outputs = [(process.stdout, channel.sendall), (process.stderr, channel.sendall_stderr)]
        pumps = [threading.Thread(target=pump, args=output) for output in outputs]
        for thread in pumps:
            thread.start()
        threading.Thread(target=end_output, args=(channel, pumps)).start()
        with contextlib.suppress(BrokenPipeError):
            while printed := channel.recv(1 << 16):
                process.stdin.write(printed)
        process.stdin.close()
        for thread in pumps:
            thread.join()
    if not channel.closed:
        end(channel, process.returncode)


def pump(source: IO[bytes], send: Callable[[bytes], None]) -> None:
    """Forward one output."""
    with contextlib.suppress(OSError):
        while chunk := source.read(1 << 16):
            send(chunk)


def end_output(channel: paramiko.Channel, pumps: Sequence[threading.Thread]) -> None:
    """Report the end of both outputs: the shell has ended, even if its input is still open."""
    for thread in pumps:
        thread.join()
    with contextlib.suppress(OSError):
        channel.shutdown_write()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    made.behavior = run_locally
    yield made
    made.die()


@pytest.fixture
def shell(server: Server) -> Shell:
    return Shell("a-vm", server.link())


def script(shell: Shell, text: str) -> tuple[int, str, str]:
    result = shell.run_program(("sh", "-c", text), Deadline.after(SOON))
    return result.rc, result.stdout, result.stderr


def test_results_are_those_of_the_commands(shell: Shell) -> None:
    assert script(shell, "echo out; echo err >&2; exit 7") == (7, "out\n", "err\n")
    assert script(shell, "printf 'no line end'") == (0, "no line end", "")
    assert script(shell, "false") == (1, "", "")
    words = shell.run_program(("printf", "%s|", "a b", "$HOME; it's", ""), Deadline.after(SOON))
    assert words.stdout == "a b|$HOME; it's||"


def test_commands_leave_each_other_alone(shell: Shell) -> None:
    assert script(shell, "cd /; x=1; exec 2>&1; set -e; false; echo never")[0] == 1
    assert script(shell, "echo ${x-unset}; pwd") == (0, f"unset\n{script(shell, 'pwd')[1]}", "")


def test_in_place_needs_no_process_and_keeps_the_status(shell: Shell) -> None:
    def in_place(text: str) -> tuple[int, str]:
        result = shell.run_program(("sh", "-c", text), Deadline.after(SOON), in_place=True)
        return result.rc, result.stdout

    assert in_place("echo one; false") == (1, "one\n")
    assert in_place("cat - <<.\ntwo\n.\n") == (0, "two\n")
    # In a subshell the variable would be lost.
    assert in_place("kept=here") == (0, "")
    assert in_place("echo $kept; cat") == (0, "here\n")


def test_a_word_of_the_shell_does_not_end_it(shell: Shell) -> None:
    assert shell.run_program(("exit", "3"), Deadline.after(SOON)).rc == 3
    assert script(shell, "echo on") == (0, "on\n", "")


def test_broken_script_is_its_own_failure(shell: Shell) -> None:
    rc, _, complaint = script(shell, "if (; then")
    assert rc
    assert complaint
    assert script(shell, "echo on") == (0, "on\n", "")


def test_nothing_reads_the_next_command_as_its_input(shell: Shell) -> None:
    assert script(shell, "cat") == (0, "", "")


def test_both_outputs_may_be_large(shell: Shell) -> None:
    rc, out, err = script(shell, "head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2")
    assert (rc, len(out), len(err)) == (0, 3_000_000, 3_000_000)


def test_slow_command_costs_only_itself(shell: Shell) -> None:
    with pytest.raises(DeadlineExceeded, match="sleep"):
        shell.run_program(("sleep", "3"), Deadline.after(0.3))
    assert script(shell, "echo on") == (0, "on\n", "")


def test_concurrent_commands_have_channels_of_their_own(shell: Shell, tmp_path: Path) -> None:
    begun, released = tmp_path / "begun", tmp_path / "released"
    waiting = f"touch {begun}; while [ ! -e {released} ]; do sleep 0.05; done"
    slow = threading.Thread(target=script, args=(shell, waiting))
    slow.start()
    try:
        deadline = Deadline.after(SOON)
        while not begun.exists():
            deadline.require_time_left("the other command")
            time.sleep(0.02)
        assert shell.run_program(("echo", "on"), Deadline.after(SOON)).stdout == "on\n"
        assert slow.is_alive()
    finally:
        released.touch()
        slow.join()


def test_command_that_ends_the_shell_is_reported(shell: Shell) -> None:
    with pytest.raises(GuestError, match=r"a-vm: the guest's shell ended during `kill"):
        script(shell, "kill -9 $$")
    assert script(shell, "echo on") == (0, "on\n", "")


def test_lost_guest_is_reported_at_once(server: Server, shell: Shell) -> None:
    script(shell, "true")
    threading.Timer(0.2, server.die).start()
    began = time.monotonic()
    with pytest.raises(GuestLost):
        shell.run_program(("sleep", "60"), Deadline.after(120))
    assert time.monotonic() - began < 40
