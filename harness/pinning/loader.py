"""Runs the loader in a guest: starts it with an order, stops it at its gates, continues it, and reads its result.

docs/pinning.md and probes/loader/loader.c describe what it prints and what its exit statuses mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from types import TracebackType
from typing import Self

from harness.core.deadline import Deadline
from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.guest.result import parsing_guest_text
from harness.landing.landing_judgment import Missed

PROGRAM = "pinpoint_loader"
PROBE = "pinpoint_pinned"
# The time limit from one line to the next. A load that waits for another load's initializer waits as long as it is
# held.
_STEP_SECONDS = 60.0


class LoaderExitStatus(IntEnum):
    """The exit status of the loader (probes/loader/step_output_and_gates.h); KILLED means that a signal ended it.

    FOREIGN stands for any exit status but 0 of a foreign loader.
    """

    KILLED = -1
    DONE = 0
    FOREIGN = 1
    USAGE = 2
    BEGIN = 10
    OPEN = 11
    READ = 12
    ZERO = 13
    LOOK = 14
    IMAGE = 15
    LOAD = 16
    REREAD = 17
    STALE = 18
    UNDO = 19
    HOLD = 20
    GATE = 21


@dataclass(frozen=True)
class LoaderOrder:
    """The instructions for one run of the loader.

    - `probe` is a module of the image or, if it has a slash, a path in the guest.
    - `targets` are the modules whose handles are passed to the probe.
    - `sections` are pairs of module and section whose addresses are passed to the probe.
    - `parameters` are further parameters of the probe.
    - `gates` are the steps before which the loader stops.
    - `module_name` is the probe's module name, if its file has another name.
    - `load_from_memory` loads with init_module(2).
    - `hold_until_removed` holds the tokens until the probe is removed.
    - `user_id` is the user id under which the loader runs.
    - `mutant` makes the loader wrong on purpose.
    """

    targets: Sequence[str] = ()
    sections: Sequence[tuple[str, str]] = ()
    parameters: Sequence[str] = ()
    gates: Sequence[str] = ()
    probe: str = PROBE
    module_name: str = ""
    load_from_memory: bool = False
    hold_until_removed: bool = False
    user_id: int | None = None
    mutant: str = ""

    def command_line_options(self) -> list[str]:
        """The options on the loader's command line."""
        options = {
            "-t": self.targets,
            "-s": [f"{module}:{section}" for module, section in self.sections],
            "-g": self.gates,
            "-n": [self.module_name] if self.module_name else [],
            "-u": [str(self.user_id)] if self.user_id is not None else [],
            "-x": [self.mutant] if self.mutant else [],
        }
        flags = [flag for flag, given in (("-m", self.load_from_memory), ("-w", self.hold_until_removed)) if given]
        return [*(word for option, values in options.items() for value in values for word in (option, value)), *flags]


@dataclass(frozen=True)
class LoaderLine:
    """One line that a program prints; `word` is `at`, `did` or `failed`, `fields` holds its KEY=VALUE words."""

    word: str
    step: str
    subject: str
    fields: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, line: str) -> LoaderLine:
        """Parse a line. Raises GuestError for a line that is not of the protocol, such as an error message."""
        word, _, rest = line.partition(" ")
        step, *others = rest.split() or [""]
        if not step or word not in ("at", "did", "failed"):
            raise GuestError(f"not a line of the loader's: {line!r}")
        subject = others.pop(0) if others and "=" not in others[0] else ""
        with parsing_guest_text("a line of the loader"):
            return cls(word, step, subject, dict(each.split("=", 1) for each in others))


@dataclass(frozen=True)
class LoaderResult:
    """The result of a loader; `lines` holds all lines that it printed, in order."""

    status: LoaderExitStatus
    lines: tuple[LoaderLine, ...]

    @property
    def failure_line(self) -> LoaderLine | None:
        """The step that failed; None if none failed, or if the loader was killed."""
        return next((step for step in self.lines if step.word == "failed"), None)

    @property
    def errno_name(self) -> str:
        """The errno's name, such as ENOENT; empty if no step failed."""
        return self.failure_line.fields["errno"] if self.failure_line else ""

    def __str__(self) -> str:
        if self.failure_line is None:
            return self.status.name
        return f"{self.status.name} {self.failure_line.subject} {self.errno_name}".replace("  ", " ")


class EndedEarly(Missed):
    """The loader ended before it reached a gate; `outcome` is its result."""

    def __init__(self, outcome: LoaderResult, wanted: str) -> None:
        self.outcome = outcome
        super().__init__(f"the loader ended before {wanted}: {outcome}")


class Loader:
    """One loader process, from its start to its end.

    Leaving the `with` block closes its input, which ends a loader that waits at a gate. `began` is the position in the
    guest's console when the loader was started.
    """

    def __init__(self, guest: Guest, order: LoaderOrder, program: str = PROGRAM) -> None:
        self.guest = guest
        self._order = order
        self._program = program
        self._steps: list[LoaderLine] = []
        self._at_gate = False

    def __enter__(self) -> Self:
        order = self._order
        image = order.probe if "/" in order.probe else self.guest.copy_module(order.probe)
        argv = [self.guest.copy_program(self._program), *order.command_line_options(), image, *order.parameters]
        self.began = self.guest.console.position
        self._dialogue = self.guest.start_dialogue(*argv)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dialogue.hang_up()

    @property
    def pid(self) -> int:
        """The loader's process id in the guest; waits for its first line if none was read yet."""
        while not self._steps:
            if self.next_line_or_none() is None:
                raise EndedEarly(self.await_result(), "its first step")
        with parsing_guest_text("a line of the loader"):
            return int(self._steps[0].fields["pid"])

    def next_line_or_none(self, deadline: Deadline | None = None) -> LoaderLine | None:
        """The next line; None after the loader has ended. Raises DeadlineExceeded, GuestLost."""
        line = self._dialogue.read_line(deadline or self.guest.scaled_deadline(_STEP_SECONDS))
        if line is None:
            return None
        step = LoaderLine.parse(line)
        self._steps.append(step)
        self._at_gate = step.word == "at"
        return step

    def await_gate(self, step: str, deadline: Deadline | None = None) -> LoaderLine:
        """Wait until the loader is at the gate before `step`, which its order must have.

        Raises EndedEarly with the outcome if the loader ends first, GuestError if it stops at another gate.
        """
        while line := self.next_line_or_none(deadline):
            if line.word == "at" and line.step == step:
                return line
            if line.word == "at":
                raise GuestError(f"the loader stopped at gate {line.step}, not at {step}", where=self.guest.name)
        raise EndedEarly(self.await_result(), step)

    def continue_from_gate(self, deadline: Deadline | None = None) -> None:
        """Let the loader continue from the gate at which it waits."""
        self._at_gate = False
        self._dialogue.send_line("go", deadline or self.guest.scaled_deadline(_STEP_SECONDS))

    def continue_to_end(self, deadline: Deadline | None = None) -> LoaderResult:
        """Let the loader continue through all remaining gates, and wait for its end."""
        if self._at_gate:
            self.continue_from_gate(deadline)
        while self.next_line_or_none(deadline):
            if self._at_gate:
                self.continue_from_gate(deadline)
        return self.await_result(deadline)

    def await_result(self, deadline: Deadline | None = None) -> LoaderResult:
        """The loader's result, after its last line or its death."""
        status = self._dialogue.await_exit_status(deadline or self.guest.scaled_deadline(_STEP_SECONDS))
        return LoaderResult(LoaderExitStatus(status), tuple(self._steps))


def run_loader(guest: Guest, order: LoaderOrder) -> LoaderResult:
    """Run one loader from start to end, continuing it at every gate."""
    with Loader(guest, order) as loader:
        return loader.continue_to_end()
