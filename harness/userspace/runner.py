"""A target process in a guest: pinpoint_runner, which calls functions on command (probes/user/runner.c)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.guest.pexpect_over_ssh import Dialogue
from harness.userspace.user_file import UserFile

_ANSWER_S = 60.0


class Runner:
    """One process, from its start to its end.

    `pid` is the process that takes commands at the moment. After a fork that is the child, until it has ended.
    """

    def __init__(
        self, guest: Guest, path: str, environment: Mapping[str, str] | None = None, *, aslr: bool = True
    ) -> None:
        self.guest = guest
        settings = [f"{name}={value}" for name, value in (environment or {}).items()]
        environment_set = ["env", *settings] if settings else []
        self._argv: Sequence[str] = [*environment_set, path, *([] if aslr else ["fixed"])]
        self.pid = 0
        self.status: int | None = None

    def __enter__(self) -> Self:
        self._dialogue = Dialogue(
            self.guest.name, self.guest.ssh_connection, self._argv, self.guest.scaled_deadline(_ANSWER_S)
        )
        self.pid = int(self._answer()["pid"])
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def not_yet_ended(self) -> bool:
        """False once `end` has returned."""
        return self.status is None

    def end(self) -> int:
        """Close its input and wait until it is gone. Returns its exit status, -1 if a signal ended it."""
        if self.status is None:
            self._dialogue.close_input()
            deadline = self.guest.scaled_deadline(_ANSWER_S)
            while self._dialogue.read_line(deadline) is not None:
                pass
            self.status = self._dialogue.await_exit_status(deadline)
            self._dialogue.hang_up()
        return self.status

    def send_command(self, line: str) -> dict[str, str]:
        """Send one command and return its answer, parsed from words `key=value`. Raises GuestError on an error."""
        self.send_command_async(line)
        return self.read_answer(line)

    def send_command_async(self, line: str) -> None:
        """Send one command without waiting for the answer."""
        self._dialogue.send_line(line, self.guest.scaled_deadline(_ANSWER_S))

    def read_answer(self, line: str = "") -> dict[str, str]:
        """The answer to a command that `send_command_async` sent.

        Raises GuestError when it is an error or does not come.
        """
        words = self._answer()
        if "error" in words:
            raise GuestError(f"pinpoint_runner: {line}: {words['error']}", where=self.guest.name)
        return words

    def call(self, name: str, times: int = 1) -> str:
        """Call a function; returns what its last call returned, in hex."""
        return self.send_command(f"call {name} {times}")["value"]

    def function_address(self, name: str) -> int:
        """The address of a function in the process: the process's own pointer, which ld.so relocated."""
        return int(self.send_command(f"where {name}")["address"], 16)

    def function_pointers(self) -> dict[str, int]:
        """The process's own pointer to every function that it can call, by name."""
        answer = self.send_command("each all 0")
        return {name: int(address, 16) for name, address in answer.items() if name != "times"}

    def fork_and_command_child(self) -> int:
        """Fork; from now on the child takes the commands. Returns its pid."""
        self.pid = int(self.send_command("fork")["pid"])
        return self.pid

    def end_child(self) -> int:
        """End the child of the last fork; from now on the parent takes the commands. Returns the child's status."""
        answer = self.send_command("exit")
        return int(answer["status"])

    def exec_program(self, program: UserFile) -> None:
        """Make the process execute another program, with the same pid."""
        self.pid = int(self.send_command(f"exec {program.guest_path}")["pid"])

    def count_threads(self) -> int:
        """Return the number of its threads. execve(2) ends all except one."""
        return len(self.guest.run("ls", f"/proc/{self.pid}/task").check().stdout.split())

    def _answer(self) -> dict[str, str]:
        line = self._dialogue.read_line(self.guest.scaled_deadline(_ANSWER_S))
        if line is None:
            raise GuestError("pinpoint_runner has ended", where=self.guest.name)
        return dict(word.split("=", 1) for word in line.split() if "=" in word)
