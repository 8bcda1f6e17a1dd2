"""The steps of loaders, remover and killer, and the line of text from which a schedule can be replayed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from harness.core.errors import UsageError


class Verb(Enum):
    """The action of one step. The first nine are the steps of a loader in order, each up to its next gate."""

    OPEN = "open"
    """Open the target's `sections/.gnu.linkonce.this_module`."""
    READ = "read"
    """Read the handle with one pread of that file."""
    LOOK = "look"
    """Read, by the target's name, the base of its memory and the address of its build-id."""
    LOAD = "load"
    """Call init_module(2), up to the probe module's initializer."""
    VALIDATE = "validate"
    """The initializer finds the module that the handle identifies, and takes a reference."""
    REGISTER = "register"
    """The initializer registers its kprobes on the target."""
    RETURN = "return"
    """The initializer drops the reference and returns, and so does init_module(2)."""
    REREAD = "reread"
    """The loader reads the fd again; at ENODEV, which means that the instance is gone, it removes the probe module."""
    CLOSE = "close"
    """The loader closes the fd and ends; the probe module stays."""
    REMOVE = "remove"
    """Call delete_module(2) on the target."""
    RELOAD = "reload"
    """Load the same file of the target again."""
    REBUILD = "rebuild"
    """Load another build of the target under the same name."""
    IMITATE = "imitate"
    """Load the target's file with another build-id, so that all addresses stay the same."""
    FORCE = "force"
    """Call delete_module(2) on the target with O_TRUNC, which ignores its reference count."""
    UNPROBE = "unprobe"
    """Call delete_module(2) on the probe module."""
    KILL = "kill"
    """Send SIGKILL to a loader."""


LOADER_STEPS = tuple(Verb)[: tuple(Verb).index(Verb.CLOSE) + 1]
# The steps in which the probe module's initializer runs; the loader is inside of init_module(2) until the last.
INITIALIZER = (Verb.VALIDATE, Verb.REGISTER, Verb.RETURN)
LOADS = (Verb.RELOAD, Verb.REBUILD, Verb.IMITATE)


@dataclass(frozen=True)
class ScheduleStep:
    """One step; `loader` is the number of the loader that takes it, or that is killed."""

    verb: Verb
    loader: int = 1

    def __str__(self) -> str:
        return self.verb.value if self.loader == 1 else f"{self.loader}.{self.verb.value}"

    @property
    def is_loader_step(self) -> bool:
        """True if it is a step that a loader takes itself."""
        return self.verb in LOADER_STEPS


Schedule = tuple[ScheduleStep, ...]


def format_schedule(schedule: Iterable[ScheduleStep]) -> str:
    """A schedule as one line, such as `open read remove load`; `2.open` is a step of the second loader."""
    return " ".join(str(step) for step in schedule)


def parse_schedule(text: str) -> Schedule:
    """Parse the schedule that `format_schedule()` returned. Raises UsageError with the word that is not a step."""
    return tuple(_step(word) for word in text.split())


def _step(word: str) -> ScheduleStep:
    loader, _, verb = word.rpartition(".")
    try:
        step = ScheduleStep(Verb(verb), int(loader or "1"))
    except ValueError:
        step = None
    if step is None or str(step) != word or step.loader not in (1, 2):
        steps = " ".join(each.value for each in Verb)
        raise UsageError(f"{word!r} is not a step of a schedule", mend=f"use one of {steps}")
    return step
