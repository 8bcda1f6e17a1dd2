"""Enumerates every order of a loader's steps and interventions by walking the model; selects a few that cover all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from harness.pinning.protocol.model import (
    KernelRules,
    StepNotPossibleError,
    UndefinedBehaviorError,
    World,
    initial_world,
)
from harness.pinning.protocol.steps import LOADER_STEPS, LOADS, Schedule, ScheduleStep, Verb

# The second loader's steps up to its load. They are taken together, because their order with other steps does not
# matter.
_SECOND_COMES = tuple(ScheduleStep(verb, 2) for verb in LOADER_STEPS[: LOADER_STEPS.index(Verb.LOAD)])


@dataclass(frozen=True)
class DefinedAndUndefinedSchedules:
    """All schedules of a kind.

    `undefined_schedules` are those that end where they would free a module under a reference.
    """

    schedules: tuple[Schedule, ...]
    undefined_schedules: tuple[Schedule, ...]


def enumerate_schedules(rule: KernelRules, most: int) -> DefinedAndUndefinedSchedules:
    """Every order of the first loader's steps with at most `most` interventions.

    An intervention is a step of the remover or the killer, or of the second loader, whose steps up to its load count as
    one. Interventions without an object are left out: removal of a module that is not loaded, a load of one that is
    loaded, a kill of a loader that has ended. Interventions after the first loader's end are left out too, because they
    would show nothing.
    """
    found: list[Schedule] = []
    undefined: list[Schedule] = []
    _walk(initial_world(rule), (), most, found, undefined)
    return DefinedAndUndefinedSchedules(tuple(found), tuple(undefined))


def _walk(now: World, done: Schedule, left: int, found: list[Schedule], undefined: list[Schedule]) -> None:
    first = now.loaders[1].next_step
    if first is None:
        found.append(done)
        return
    _walk(now.world_and_outcome_after(ScheduleStep(first))[0], (*done, ScheduleStep(first)), left, found, undefined)
    for steps in possible_interventions(now) if left else ():
        try:
            after, taken = _taken(now, steps)
        except UndefinedBehaviorError:
            undefined.append((*done, *steps))
        else:
            _walk(after, (*done, *taken), left - 1, found, undefined)


def _taken(now: World, steps: Schedule) -> tuple[World, Schedule]:
    """Take these steps, up to and including one that ends its loader."""
    taken: list[ScheduleStep] = []
    for step in steps:
        now = now.world_and_outcome_after(step)[0]
        taken.append(step)
        if now.loaders[step.loader].ended:
            break
    return now, tuple(taken)


def possible_interventions(now: World) -> Iterator[Schedule]:
    """The interventions that are possible now and have an object; none is a step of the first loader."""
    if now.target is not None:
        yield from ((ScheduleStep(Verb.REMOVE),), (ScheduleStep(Verb.FORCE),))
    else:
        yield from ((ScheduleStep(verb),) for verb in LOADS)
    if now.probe is not None:
        yield (ScheduleStep(Verb.UNPROBE),)
    second = now.loaders[2]
    if not second.steps_taken and not second.ended:
        yield _SECOND_COMES
    elif second.next_step is not None:
        yield (ScheduleStep(second.next_step, 2),)
    for number, loader in now.loaders.items():
        if not loader.ended and not loader.killed_in_init_module and (number == 1 or loader.steps_taken):
            yield (ScheduleStep(Verb.KILL, number),)


def possible_steps(now: World) -> list[ScheduleStep]:
    """Every single step that can be taken, has an object, and has a defined outcome."""
    steps = [
        ScheduleStep(loader.next_step, number) for number, loader in now.loaders.items() if loader.next_step is not None
    ]
    steps += [steps_of[0] for steps_of in possible_interventions(now) if steps_of[0] not in steps]
    return [step for step in steps if _defined(now, step)]


def _defined(now: World, step: ScheduleStep) -> bool:
    try:
        now.world_and_outcome_after(step)
    except (UndefinedBehaviorError, StepNotPossibleError):
        return False
    return True


Situation = tuple[str, str, str]


def situations_of_schedule(rule: KernelRules, schedule: Schedule) -> frozenset[Situation]:
    """The situations that a schedule tests: each step, the state of the first loader before it, and the outcome."""
    now, found = initial_world(rule), set()
    for step in schedule:
        part = _part(now)
        now, outcome = now.world_and_outcome_after(step)
        found.add((str(step), part, outcome))
    return frozenset(found)


def _part(now: World) -> str:
    """The state of the first loader, as far as it makes a difference to other steps."""
    first, probe = now.loaders[1], now.probe
    if first.ended:
        return "ended"
    held = probe is not None and probe.held_instance is not None
    stale = first.token_instance is not None and first.token_instance != now.target
    words = [
        "holding" if held else "inside" if first.is_in_init_module else "loaded" if probe else "before",
        *(["doomed"] if first.killed_in_init_module else []),
        *(["stale"] if stale else []),
    ]
    return " ".join(words)


def select_covering_schedules(rule: KernelRules, schedules: Iterable[Schedule]) -> tuple[Schedule, ...]:
    """A few of the schedules that together have every situation of all schedules.

    They are chosen greedily: the schedule with the most missing situations, and among equals the shortest.
    """
    unseen = {schedule: situations_of_schedule(rule, schedule) for schedule in schedules}
    missing = frozenset().union(*unseen.values())
    chosen: list[Schedule] = []
    while missing:
        best = max(unseen, key=lambda schedule: (len(unseen[schedule] & missing), -len(schedule)))
        chosen.append(best)
        missing -= unseen[best]
    return tuple(chosen)
