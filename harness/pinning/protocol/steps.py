"""Steps of loaders, remover and killer, and the one line that a schedule of them is printed as and replayed from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from harness.core.errors import UsageError


class Verb(Enum):
    """What one step does; the first nine are a loader's life, each up to its next gate."""

    OPEN = "open"
    """Open the target's `sections/.gnu.linkonce.this_module`."""
    READ = "read"
    """One pread of it: the handle."""
    LOOK = "look"
    """Read, by the target's name, the base of its memory and where its build-id is."""
    LOAD = "load"
    """init_module(2), up to the probe module's initializer."""
    VALIDATE = "validate"
    """The initializer finds the module that the handle means, and takes a reference."""
    REGISTER = "register"
    """It puts its kprobes on the target."""
    RETURN = "return"
    """It drops the reference and returns; init_module(2) with it."""
    REREAD = "reread"
    """The loader reads the fd again: at ENODEV, which means that the instance has gone, it removes the probe module."""
    CLOSE = "close"
    """The loader closes the fd and ends; the probe module stays."""
    REMOVE = "remove"
    """delete_module(2) of the target."""
    RELOAD = "reload"
    """Load the target again, the same file."""
    REBUILD = "rebuild"
    """Load another build of the target, at the same name."""
    IMITATE = "imitate"
    """Load a build that has all at the same addresses: the same file with another build-id."""
    FORCE = "force"
    """delete_module(2) of the target with O_TRUNC, regardless of its reference count."""
    UNPROBE = "unprobe"
    """delete_module(2) of the probe module."""
    KILL = "kill"
    """SIGKILL to a loader."""


LIFE = tuple(Verb)[: tuple(Verb).index(Verb.CLOSE) + 1]
# In these the initializer of the probe module runs: the loader is inside of init_module(2) until the last.
INITIALIZER = (Verb.VALIDATE, Verb.REGISTER, Verb.RETURN)
LOADS = (Verb.RELOAD, Verb.REBUILD, Verb.IMITATE)


@dataclass(frozen=True)
class ScheduleStep:
    """One step; `loader` is the number of the loader it belongs to, or which loader is killed."""

    verb: Verb
    loader: int = 1

    def __str__(self) -> str:
        return self.verb.value if self.loader == 1 else f"{self.loader}.{self.verb.value}"

    @property
    def lives(self) -> bool:
        """Is it a step of a loader itself?"""
        return self.verb in LIFE


Schedule = tuple[ScheduleStep, ...]


def line(schedule: Iterable[ScheduleStep]) -> str:
    """A schedule in one line: `open read remove load`; `2.open` is the second loader's."""
    return " ".join(str(step) for step in schedule)


def parse(text: str) -> Schedule:
    """The schedule that `line` printed. Raises UsageError naming the word that is no step."""
    return tuple(_step(word) for word in text.split())


def _step(word: str) -> ScheduleStep:
    loader, _, verb = word.rpartition(".")
    try:
        step = ScheduleStep(Verb(verb), int(loader or "1"))
    except ValueError:
        step = None
    if step is None or str(step) != word or step.loader not in (1, 2):
        raise UsageError(f"{word!r} is no step of a schedule", mend=f"one of {' '.join(each.value for each in Verb)}")
    return step
