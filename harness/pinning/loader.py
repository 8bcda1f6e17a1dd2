"""The loader in a guest: started with an order, stopped at its gates, continued, and its result read.

What it prints and what its exit statuses mean: docs/pinning.md, probes/loader/loader.c.
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
from harness.guest.result import readable
from harness.landing.landing import Missed

PROGRAM = "pinpoint_loader"
PROBE = "pinpoint_pinned"
# From one line to the next; a load that waits for another one's initializer takes as long as that is held.
_STEP_SECONDS = 60.0


class Status(IntEnum):
    """How the loader ended, by its exit status (probes/loader/gates.h); KILLED is a signal's."""

    KILLED = -1
    DONE = 0
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
class Order:
    """What a loader is to do.

    `probe` is a module of the image or, with a slash, a path in the guest; `targets` are the modules whose handles
    the probe gets, `sections` MODULE and SECTION whose addresses it wants, `parameters` its further parameters;
    `gates` the steps before which the loader stops. `name` is the probe's name where its file is called otherwise;
    `in_memory` loads by init_module(2), `until_removed` holds the tokens until the probe is gone, `user` is a user id
    to become, `mutant` a way to be wrong on purpose.
    """

    targets: Sequence[str] = ()
    sections: Sequence[tuple[str, str]] = ()
    parameters: Sequence[str] = ()
    gates: Sequence[str] = ()
    probe: str = PROBE
    name: str = ""
    in_memory: bool = False
    until_removed: bool = False
    user: int | None = None
    mutant: str = ""

    def words(self) -> list[str]:
        """The loader's options, as its command line has them."""
        options = {
            "-t": self.targets,
            "-s": [f"{module}:{section}" for module, section in self.sections],
            "-g": self.gates,
            "-n": [self.name] if self.name else [],
            "-u": [str(self.user)] if self.user is not None else [],
            "-x": [self.mutant] if self.mutant else [],
        }
        flags = [flag for flag, given in (("-m", self.in_memory), ("-w", self.until_removed)) if given]
        return [*(word for option, values in options.items() for value in values for word in (option, value)), *flags]


@dataclass(frozen=True)
class LoaderLine:
    """One line of a program: `word` is at, did or failed; `fields` its KEY=VALUE words."""

    word: str
    step: str
    subject: str
    fields: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parsed(cls, line: str) -> LoaderLine:
        """Raises GuestError for a line that is none of the protocol: a program's own complaint, say."""
        word, _, rest = line.partition(" ")
        step, *others = rest.split() or [""]
        if not step or word not in ("at", "did", "failed"):
            raise GuestError(f"not a line of the loader's: {line!r}")
        subject = others.pop(0) if others and "=" not in others[0] else ""
        with readable("a line of the loader"):
            return cls(word, step, subject, dict(each.split("=", 1) for each in others))


@dataclass(frozen=True)
class LoaderResult:
    """How a loader ended: `steps` are all lines it printed, in order."""

    status: Status
    steps: tuple[LoaderLine, ...]

    @property
    def failed(self) -> LoaderLine | None:
        """The step that failed; None when none did, or it was killed."""
        return next((said for said in self.steps if said.word == "failed"), None)

    @property
    def errno(self) -> str:
        """ENOENT and the like, empty without a failure."""
        return self.failed.fields["errno"] if self.failed else ""

    def __str__(self) -> str:
        if self.failed is None:
            return self.status.name
        return f"{self.status.name} {self.failed.subject} {self.errno}".replace("  ", " ")


class EndedEarly(Missed):
    """The loader ended before it came to a gate; `outcome` is how."""

    def __init__(self, outcome: LoaderResult, wanted: str) -> None:
        self.outcome = outcome
        super().__init__(f"the loader ended before {wanted}: {outcome}")


class Loader:
    """One loader, from its start to its end. Leaving the `with` block hangs up: one that waits at a gate ends then.

    `began` is where the guest's console was when it was started.
    """

    def __init__(self, guest: Guest, order: Order, program: str = PROGRAM) -> None:
        self.guest = guest
        self._order = order
        self._program = program
        self._steps: list[LoaderLine] = []
        self._stands = False

    def __enter__(self) -> Self:
        order = self._order
        image = order.probe if "/" in order.probe else self.guest.ship(order.probe)
        argv = [self.guest.program(self._program), *order.words(), image, *order.parameters]
        self.began = self.guest.console.position
        self._dialogue = self.guest.talk(*argv)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dialogue.hang_up()

    @property
    def pid(self) -> int:
        """Its process id in the guest; waits for its first line if need be."""
        while not self._steps:
            if self.next_line() is None:
                raise EndedEarly(self.ended(), "its first step")
        with readable("a line of the loader"):
            return int(self._steps[0].fields["pid"])

    def next_line(self, deadline: Deadline | None = None) -> LoaderLine | None:
        """The next line; None once it has ended. Raises DeadlineExceeded, GuestLost."""
        line = self._dialogue.line(deadline or self.guest.budget(_STEP_SECONDS))
        if line is None:
            return None
        said = LoaderLine.parsed(line)
        self._steps.append(said)
        self._stands = said.word == "at"
        return said

    def reach(self, step: str, deadline: Deadline | None = None) -> LoaderLine:
        """Wait until it stands at the gate before `step`, which its order must have.

        Raises EndedEarly with the outcome when it never will; GuestError when it stands at another gate.
        """
        while said := self.next_line(deadline):
            if said.word == "at" and said.step == step:
                return said
            if said.word == "at":
                raise GuestError(f"stands at {said.step}, not at {step}", where=self.guest.name)
        raise EndedEarly(self.ended(), step)

    def go(self, deadline: Deadline | None = None) -> None:
        """Let it go on from the gate it stands at."""
        self._stands = False
        self._dialogue.say("go", deadline or self.guest.budget(_STEP_SECONDS))

    def finish(self, deadline: Deadline | None = None) -> LoaderResult:
        """Let it go through every gate that is left, and wait for its end."""
        if self._stands:
            self.go(deadline)
        while self.next_line(deadline):
            if self._stands:
                self.go(deadline)
        return self.ended(deadline)

    def ended(self, deadline: Deadline | None = None) -> LoaderResult:
        """How it ended, after its last line or its death."""
        status = self._dialogue.status(deadline or self.guest.budget(_STEP_SECONDS))
        return LoaderResult(Status(status), tuple(self._steps))


def run(guest: Guest, order: Order) -> LoaderResult:
    """One loader from start to end, without a stop."""
    with Loader(guest, order) as loader:
        return loader.finish()
