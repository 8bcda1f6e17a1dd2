"""Runs somebody else's loader in a guest in the place of ours, and reads what it passed and what it holds.

It is stopped at one place only: in the probe's initializer, before the probe validates anything. The loader has read
its handles then and is in the system call. docs/foreign-loaders.md describes the convention.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from harness.core.deadline import Deadline
from harness.core.errors import DeadlineExceeded
from harness.guest.guest import Guest
from harness.guest.result import parsing_guest_text
from harness.landing.landing_judgment import Missed
from harness.landing.target import HANDLE_SECTION
from harness.pinning.check_foreign_loader_command import ForeignLoaderProgramAndArguments
from harness.pinning.loader import PROBE, EndedEarly, Loader, LoaderExitStatus, LoaderLine, LoaderOrder, LoaderResult

_SECONDS = 60.0
# The one gate of our loader's that a foreign loader has; it is in the probe's initializer.
_GATE, _ENTERED = "load", "entered"
_ENDED = "pinpoint: the foreign loader ended"
# Runs a command with the names of the targets in its environment, and prints its end in the kernel's log, where the
# probe prints its gates.
_RUN = f'export PINPOINT_TARGETS="$1"; shift; "$@"; rc=$?; echo "<1>{_ENDED}" >/dev/kmsg; exit $rc'
_NOTE = ".note.gnu.build-id"
_MOST_OUTPUT = 300


@dataclass(frozen=True)
class ForeignResult(LoaderResult):
    """The result of a foreign loader: its exit status, its output in one line, and what it held at the gate."""

    command: str = ""
    exit_status: int = 0
    output: str = ""
    held: tuple[str, ...] | None = None

    def __str__(self) -> str:
        printed = f": {self.output}" if self.output else ""
        held = "" if self.held is None else f"; in the load it held {', '.join(self.held) or 'nothing'}"
        return f"`{self.command}` exited with {self.exit_status}{printed}{held}"


@dataclass(frozen=True)
class TargetAddresses:
    """The facts about one target when the loader is started; zeros for a module that is not there."""

    name: str
    handle: int
    base: int
    note: int


class ForeignLoader(Loader):
    """One run of a foreign loader, from its start to its end.

    An order must have no gate but `load`, and no option of our loader's.
    """

    def __init__(self, guest: Guest, order: LoaderOrder, command: ForeignLoaderProgramAndArguments) -> None:
        own = replace(order, targets=(), sections=(), parameters=(), gates=(), probe=PROBE, module_name="")
        if own != LoaderOrder() or set(order.gates) - {_GATE}:
            raise ValueError(f"only Pinpoint's loader can follow this order: {order}")
        super().__init__(guest, order)
        self._command = command
        self._held: tuple[str, ...] | None = None
        self.passed_addresses: list[int] = []

    def __enter__(self) -> Self:
        order, guest = self._order, self.guest
        image = order.probe if "/" in order.probe else guest.copy_module(order.probe)
        self._facts = read_addresses_of_targets(guest, order.targets)
        parameters = probe_parameters_except_handles(order, self._facts, self._section_addresses())
        words = [_copy(guest, self._command), *self._command.arguments, image, *parameters]
        self.began = self._seen = guest.console.position
        self._dialogue = guest.start_dialogue("sh", "-c", _RUN, "sh", " ".join(order.targets), *words)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._at_gate:
            with suppress(DeadlineExceeded):
                self._open_gate_until_end(self.guest.scaled_deadline(_SECONDS))
        self._dialogue.hang_up()

    def await_gate(self, step: str, deadline: Deadline | None = None) -> LoaderLine:
        """Wait until the probe's initializer has begun, and check the addresses that the loader passed to it.

        Raises EndedEarly if the loader ends first, and Missed if it passed other addresses than the targets' in order.
        """
        deadline = deadline or self.guest.scaled_deadline(_SECONDS)
        try:
            reached = self._await_gate_or_end(deadline)
        except DeadlineExceeded:
            raise Missed(f"`{self._command.shown}` did not load the probe in time, and did not end") from None
        if not reached:
            raise EndedEarly(self.await_result(), f"the probe's initializer ran: {step}")
        self.passed_addresses = self._read_passed_addresses()
        self._held = open_files_below_sys_module(self.guest)
        expected = [each.handle for each in self._facts]
        if self.passed_addresses != expected:
            raise Missed(
                f"`{self._command.shown}` passed module_addresses={_listed(self.passed_addresses)}, not "
                f"{_listed(expected)} for {', '.join(self._order.targets)}"
            )
        return LoaderLine("at", step, PROBE)

    def continue_from_gate(self, deadline: Deadline | None = None) -> None:
        """Let the probe's initializer continue."""
        self._at_gate = False
        open_gate = f"echo go >/sys/module/{PROBE}/parameters/open_gate"
        self.guest.run_script(open_gate, deadline or self.guest.scaled_deadline(_SECONDS)).check()

    def continue_to_end(self, deadline: Deadline | None = None) -> LoaderResult:
        """Let the initializer continue, and wait for the loader's end. Raises Missed if it does not end in time."""
        if _GATE in self._order.gates and not self._at_gate and self._held is None:
            self.await_gate(_GATE, deadline)
        if self._at_gate:
            try:
                self._open_gate_until_end(deadline or self.guest.scaled_deadline(_SECONDS))
            except DeadlineExceeded:
                raise Missed(f"`{self._command.shown}` did not end in time after the load") from None
        return self.await_result(deadline)

    def await_result(self, deadline: Deadline | None = None) -> LoaderResult:
        """The result after the loader's end. Raises Missed if it, or what it started, keeps its output open."""
        lines: list[str] = []
        deadline = deadline or self.guest.scaled_deadline(_SECONDS)
        try:
            while (line := self._dialogue.read_line(deadline)) is not None:
                lines.append(" ".join(line.split()))
            status = self._dialogue.await_exit_status(deadline)
        except DeadlineExceeded:
            raise Missed(f"`{self._command.shown}` did not end in time: {_one_line(lines)}") from None
        result = LoaderExitStatus.FOREIGN if status else LoaderExitStatus.DONE
        return ForeignResult(result, (), self._command.shown, status, _one_line(lines), self._held)

    @property
    def pid(self) -> int:
        """A foreign loader may be several processes."""
        raise ValueError("only Pinpoint's loader prints its process id")

    def _await_gate_or_end(self, deadline: Deadline) -> bool:
        """Wait until the probe's initializer is at its gate, or the loader has ended; return True for the gate."""
        seen = self.guest.console.await_line([f"{PROBE}: at {_ENTERED}", _ENDED], deadline, since=self._seen)
        self._seen = seen.end
        self._at_gate = seen.pattern_index == 0
        return self._at_gate

    def _open_gate_until_end(self, deadline: Deadline) -> None:
        """Open the gate each time that the initializer is there, until the loader has ended.

        A loader may try again: busybox's insmod calls init_module(2) when finit_module(2) failed. Raises
        DeadlineExceeded.
        """
        while self._at_gate:
            self.continue_from_gate(deadline)
            self._await_gate_or_end(deadline)

    def _section_addresses(self) -> Sequence[int]:
        paths = [f"/sys/module/{module}/sections/{section}" for module, section in self._order.sections]
        return [_number(line) for line in _read_lines(self.guest, paths)]

    def _read_passed_addresses(self) -> list[int]:
        text = self.guest.read_text(f"/sys/module/{PROBE}/parameters/module_addresses").strip()
        with parsing_guest_text("the probe's parameter module_addresses"):
            return [int(word) for word in text.split(",") if word]


def read_addresses_of_targets(guest: Guest, targets: Sequence[str]) -> list[TargetAddresses]:
    """Read handle, base and note of each target; a module that is not there, or has no note, has zeros."""
    facts = []
    for name in targets:
        sections = f"/sys/module/{name}/sections"
        handle, note = _read_lines(guest, [f"{sections}/{HANDLE_SECTION}", f"{sections}/{_NOTE}"])
        words = guest.run("grep", f"^{name} ", "/proc/modules").stdout.split()
        facts.append(TargetAddresses(name, _number(handle), _number(words[5]) if words else 0, _number(note)))
    return facts


def probe_parameters_except_handles(
    order: LoaderOrder, facts: Sequence[TargetAddresses], sections: Sequence[int]
) -> list[str]:
    """The parameters that the loader must pass on: all that the probe needs except the targets' addresses."""
    lists = {
        "module_names": [each.name for each in facts],
        "module_bases": [f"{each.base:#x}" for each in facts],
        "module_notes": [f"{each.note:#x}" for each in facts],
        "section_addresses": [f"{address:#x}" for address in sections],
    }
    gates = [f"gates={_ENTERED}"] if order.gates else []
    return [*(f"{name}={','.join(values)}" for name, values in lists.items() if values), *order.parameters, *gates]


def open_files_below_sys_module(guest: Guest) -> tuple[str, ...]:
    """The files below /sys/module that any process has open, each with how often."""
    script = "ls -l /proc/[0-9]*/fd 2>/dev/null | sed -n 's|.* -> \\(/sys/module/.*\\)|\\1|p' | sort | uniq -c"
    lines = guest.run_script(script).check().stdout.splitlines()
    return tuple(f"{path} ({count} times)" for count, path in (line.split(maxsplit=1) for line in lines))


def _copy(guest: Guest, command: ForeignLoaderProgramAndArguments) -> str:
    """Copy the host's file into the guest on the first call; return what to run there."""
    path = command.program_in_guest
    if command.host_file and path not in guest.copied_files:
        guest.put(command.host_file, path, 0o755)
        guest.copied_files[path] = command.host_file
    return path


def _read_lines(guest: Guest, paths: Sequence[str]) -> list[str]:
    """The first line of each file, empty for one that cannot be read."""
    if not paths:
        return []
    lines = guest.run("grep", "-sH", "", *paths).stdout.splitlines()
    return [next((line[len(path) + 1 :] for line in lines if line.startswith(f"{path}:")), "") for path in paths]


def _number(text: str) -> int:
    with parsing_guest_text("an address in sysfs or /proc/modules"):
        return int(text or "0", 16)


def _listed(addresses: Sequence[int]) -> str:
    return ",".join(f"{address:#x}" for address in addresses) or "nothing"


def _one_line(lines: Sequence[str]) -> str:
    return "; ".join(filter(None, lines))[-_MOST_OUTPUT:]
