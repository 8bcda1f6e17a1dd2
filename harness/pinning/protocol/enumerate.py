"""Every order of a loader's life with so many interventions, by walking the model; and a few that cover them all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from harness.pinning.protocol.model import NotNowError, Rule, UndefinedError, World, beginning
from harness.pinning.protocol.steps import LIFE, LOADS, Schedule, ScheduleStep, Verb

# What the second loader does before it comes to a load: no order of these and another's steps is of its own interest.
_SECOND_COMES = tuple(ScheduleStep(verb, 2) for verb in LIFE[: LIFE.index(Verb.LOAD)])


@dataclass(frozen=True)
class Enumerated:
    """All schedules of a kind; `undefined` are those cut off where they free a module under a reference."""

    schedules: tuple[Schedule, ...]
    undefined: tuple[Schedule, ...]


def enumerated(rule: Rule, most: int) -> Enumerated:
    """Every order of the first loader's life with at most so many interventions in it.

    An intervention is a step of the remover or the killer, or of the second loader, whose steps up to its load count as
    one. One that has nothing to act on (a removal of what is not there, a load of what is, the death of the dead) is
    left out, and so is one that comes when the first loader has ended: it would show nothing.
    """
    found: list[Schedule] = []
    undefined: list[Schedule] = []
    _walk(beginning(rule), (), most, found, undefined)
    return Enumerated(tuple(found), tuple(undefined))


def _walk(now: World, done: Schedule, left: int, found: list[Schedule], undefined: list[Schedule]) -> None:
    first = now.loaders[1].next
    if first is None:
        found.append(done)
        return
    _walk(now.after(ScheduleStep(first))[0], (*done, ScheduleStep(first)), left, found, undefined)
    for steps in interventions(now) if left else ():
        try:
            after, taken = _taken(now, steps)
        except UndefinedError:
            undefined.append((*done, *steps))
        else:
            _walk(after, (*done, *taken), left - 1, found, undefined)


def _taken(now: World, steps: Schedule) -> tuple[World, Schedule]:
    """Take these steps, up to one that ends its loader."""
    taken: list[ScheduleStep] = []
    for step in steps:
        now = now.after(step)[0]
        taken.append(step)
        if now.loaders[step.loader].ended:
            break
    return now, tuple(taken)


def interventions(now: World) -> Iterator[Schedule]:
    """What others than the first loader can do that has something to act on."""
    if now.target is not None:
        yield from ((ScheduleStep(Verb.REMOVE),), (ScheduleStep(Verb.FORCE),))
    else:
        yield from ((ScheduleStep(verb),) for verb in LOADS)
    if now.probe is not None:
        yield (ScheduleStep(Verb.UNPROBE),)
    second = now.loaders[2]
    if not second.taken and not second.ended:
        yield _SECOND_COMES
    elif second.next is not None:
        yield (ScheduleStep(second.next, 2),)
    for number, loader in now.loaders.items():
        if not loader.ended and not loader.doomed and (number == 1 or loader.taken):
            yield (ScheduleStep(Verb.KILL, number),)


def possible(now: World) -> list[ScheduleStep]:
    """Every single step that can be taken, has something to act on, and whose outcome is defined."""
    steps = [ScheduleStep(loader.next, number) for number, loader in now.loaders.items() if loader.next is not None]
    steps += [steps_of[0] for steps_of in interventions(now) if steps_of[0] not in steps]
    return [step for step in steps if _defined(now, step)]


def _defined(now: World, step: ScheduleStep) -> bool:
    try:
        now.after(step)
    except (UndefinedError, NotNowError):
        return False
    return True


Situation = tuple[str, str, str]


def situations(rule: Rule, schedule: Schedule) -> frozenset[Situation]:
    """What a schedule puts to the test: each step, its outcome, and in which part of its life the first loader was."""
    now, found = beginning(rule), set()
    for step in schedule:
        part = _part(now)
        now, outcome = now.after(step)
        found.add((str(step), part, outcome))
    return frozenset(found)


def _part(now: World) -> str:
    """The part of the first loader's life, no finer than what others can feel of it."""
    first, probe = now.loaders[1], now.probe
    if first.ended:
        return "ended"
    held = probe is not None and probe.holds is not None
    stale = first.fd is not None and first.fd != now.target
    words = [
        "holding" if held else "inside" if first.inside else "loaded" if probe else "before",
        *(["doomed"] if first.doomed else []),
        *(["stale"] if stale else []),
    ]
    return " ".join(words)


def covering(rule: Rule, schedules: Iterable[Schedule]) -> tuple[Schedule, ...]:
    """A few of the schedules in which every situation of all of them occurs: greedily, the shortest of the best."""
    unseen = {schedule: situations(rule, schedule) for schedule in schedules}
    missing = frozenset().union(*unseen.values())
    chosen: list[Schedule] = []
    while missing:
        best = max(unseen, key=lambda schedule: (len(unseen[schedule] & missing), -len(schedule)))
        chosen.append(best)
        missing -= unseen[best]
    return tuple(chosen)
