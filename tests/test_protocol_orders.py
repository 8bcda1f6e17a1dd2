"""The model of the loading protocol predicts each schedule; a kernel that contradicts it is found and reported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as draw

from harness.core.errors import GuestLost, UsageError
from harness.landing.landing_judgment import Missed
from harness.pinning.mutants import HONEST
from harness.pinning.protocol import schedule_fixture
from harness.pinning.protocol.enumerate import enumerate_schedules, select_covering_schedules, situations_of_schedule
from harness.pinning.protocol.hypothesis_machine import explore_schedules
from harness.pinning.protocol.model import (
    PINNING_RULES,
    SHARING_RULES,
    TOKEN_RULES,
    KernelRules,
    StepNotPossibleError,
    UndefinedBehaviorError,
    World,
    initial_world,
)
from harness.pinning.protocol.play import PlayedSchedule, play_schedule
from harness.pinning.protocol.schedule_fixture import FEW, FEW_STEPS, Schedules
from harness.pinning.protocol.steps import (
    LOADER_STEPS,
    LOADS,
    Schedule,
    ScheduleStep,
    Verb,
    format_schedule,
    parse_schedule,
)

EACH = pytest.mark.parametrize("rule", [TOKEN_RULES, PINNING_RULES, SHARING_RULES])


class ModelStage:
    """A kernel that follows a rule of its own, and whose allocator chooses the address of each load."""

    def __init__(self, rule: KernelRules, *, moves: bool = False) -> None:
        self._world = initial_world(rule)
        self._moves = moves

    def take_step(self, step: ScheduleStep, _now: World) -> str:
        place = f"place {self._world.instance_count}" if self._moves and step.verb in LOADS else None
        self._world, outcome = self._world.world_and_outcome_after(step, place)
        return outcome

    def last_target_place(self) -> str:
        assert self._world.target is not None
        return self._world.target.place

    def kernel_state(self) -> str:
        return self._world.expected_kernel_state


def outcomes(rule: KernelRules, text: str) -> list[str]:
    """Return the outcome of each step in the model."""
    world, found = initial_world(rule), []
    for step in parse_schedule(text):
        world, outcome = world.world_and_outcome_after(step)
        found.append(outcome)
    return found


@settings(deadline=None)
@given(draw.lists(draw.builds(ScheduleStep, draw.sampled_from(Verb), draw.sampled_from((1, 2)))))
def test_a_schedule_replays_from_its_line(steps: list[ScheduleStep]) -> None:
    assert parse_schedule(format_schedule(steps)) == tuple(steps)


@pytest.mark.parametrize("word", ["opens", "3.open", "1.open", "2.", "two.open", "0.open"])
def test_a_word_that_is_no_step_is_named(word: str) -> None:
    with pytest.raises(UsageError, match=f"{word!r} is not a step"):
        parse_schedule(f"open {word}")


@pytest.mark.parametrize(
    ("rule", "text", "last"),
    [
        (TOKEN_RULES, "open read look load validate register return reread close", "ok"),
        (PINNING_RULES, "open read look load validate register return reread close", "ok"),
        # The letter of 2006 relies on this; 2.6.23 changed it.
        (PINNING_RULES, "open remove", "EWOULDBLOCK"),
        (TOKEN_RULES, "open remove", "ok"),
        (TOKEN_RULES, "open remove read", "ENODEV"),
        (TOKEN_RULES, "remove open", "ENOENT"),
        (TOKEN_RULES, "open read remove look", "ENOENT"),
        (TOKEN_RULES, "open read look remove load validate", "ESTALE"),
        # Another build at the same address, and at another address.
        (TOKEN_RULES, "open read look remove imitate load validate", "ESTALE"),
        (TOKEN_RULES, "open read look remove rebuild load validate", "ESTALE"),
        # The same build at the same address passes validation; only the token differs.
        (TOKEN_RULES, "open read look remove reload load validate", "ok"),
        (TOKEN_RULES, "open read look remove reload load validate register return reread", "ENODEV"),
        (TOKEN_RULES, "open read look load validate remove", "EWOULDBLOCK"),
        (TOKEN_RULES, "open read look load validate register return remove", "ok"),
        (PINNING_RULES, "open read look load validate register return remove", "EWOULDBLOCK"),
        (PINNING_RULES, "open read look load validate register return reread close remove", "ok"),
        # A killed loader stays inside init_module(2), and its fds stay open.
        (PINNING_RULES, "open kill", "killed"),
        (PINNING_RULES, "open kill remove", "ok"),
        (PINNING_RULES, "open read look load kill", "waits"),
        (PINNING_RULES, "open read look load kill remove", "EWOULDBLOCK"),
        (PINNING_RULES, "open read look load kill validate register return", "killed"),
        (PINNING_RULES, "open read look load kill validate register return remove", "ok"),
        (TOKEN_RULES, "open read look load kill remove validate", "killed"),
        # A module name can be loaded only once.
        (TOKEN_RULES, "open read look load 2.open 2.read 2.look 2.load", "waits"),
        (TOKEN_RULES, "open read look load 2.open 2.read 2.look 2.load validate register return", "ok, 2.load EEXIST"),
        (TOKEN_RULES, "open read look load 2.open 2.read 2.look 2.load remove validate", "ESTALE, 2.load EBUSY"),
        (TOKEN_RULES, "open read look load 2.open 2.read 2.look 2.load 2.kill", "killed"),
        # If loads of one file are shared, a load that waited gets the other's outcome and continues from there.
        (SHARING_RULES, "open read look load 2.open 2.read 2.look 2.load", "waits"),
        (SHARING_RULES, "open read look load 2.open 2.read 2.look 2.load validate register return", "ok, 2.load ok"),
        (SHARING_RULES, "open read look load 2.open 2.read 2.look 2.load remove validate", "ESTALE, 2.load ESTALE"),
        (
            SHARING_RULES,
            "open read look load 2.open 2.read 2.look 2.load kill validate register return",
            "killed, 2.load ok",
        ),
        (
            SHARING_RULES,
            "open read look load 2.open 2.read 2.look 2.load validate register return remove 2.reread",
            "ENODEV",
        ),
        (SHARING_RULES, "open read look load validate register return 2.open 2.read 2.look 2.load", "EEXIST"),
        (TOKEN_RULES, "open read look load unprobe", "EBUSY"),
        (TOKEN_RULES, "open read look load validate register return unprobe remove reread", "ENODEV, undo ENOENT"),
        # Forced removal ignores references of fds.
        (PINNING_RULES, "open force read", "ENODEV"),
    ],
)
def test_the_outcome_of_each_step_in_the_model(rule: KernelRules, text: str, last: str) -> None:
    assert outcomes(rule, text)[-1] == last


def test_force_under_a_reference_is_not_defined() -> None:
    with pytest.raises(UndefinedBehaviorError):
        outcomes(TOKEN_RULES, "open read look load validate force")


@pytest.mark.parametrize("text", ["read", "open open", "open kill read", "kill kill", "2.read"])
def test_a_step_before_its_time_is_refused(text: str) -> None:
    with pytest.raises(StepNotPossibleError):
        outcomes(TOKEN_RULES, text)
    with pytest.raises(UsageError, match="cannot be taken now"):
        play_schedule(ModelStage(TOKEN_RULES), TOKEN_RULES, parse_schedule(text))


@EACH
def test_enumeration_without_interventions_is_the_loaders_life(rule: KernelRules) -> None:
    assert enumerate_schedules(rule, 0).schedules == (tuple(map(ScheduleStep, LOADER_STEPS)),)


def inserted(rule: KernelRules, most: int) -> set[str]:
    """Return every schedule with one or two removals or reloads, by brute force over all steps."""
    found, ahead = set(), [((), initial_world(rule), most)]
    while ahead:
        done, world, left = ahead.pop()
        verb = world.loaders[1].next_step
        if verb is None:
            found.add(format_schedule(done))
            continue
        for each in (verb, *((Verb.REMOVE, Verb.RELOAD) if left else ())):
            after, outcome = world.world_and_outcome_after(ScheduleStep(each))
            if each is verb or outcome not in ("ENOENT", "EEXIST"):
                ahead.append(((*done, ScheduleStep(each)), after, left - (each is not verb)))
    return found


@EACH
@pytest.mark.parametrize("most", [1, 2])
def test_enumeration_is_complete_and_without_repetition(rule: KernelRules, most: int) -> None:
    schedules = enumerate_schedules(rule, most).schedules
    assert len(set(schedules)) == len(schedules)
    others = {Verb.REMOVE, Verb.RELOAD}
    plain = [
        each
        for each in schedules
        if all(step.verb in others or step in map(ScheduleStep, LOADER_STEPS) for step in each)
    ]
    assert set(map(format_schedule, plain)) == inserted(rule, most)


@EACH
def test_what_is_left_out_frees_a_module_under_a_reference(rule: KernelRules) -> None:
    left_out = enumerate_schedules(rule, 2).undefined_schedules
    assert left_out
    assert {each[-1] for each in left_out} == {ScheduleStep(Verb.FORCE)}
    assert all(ScheduleStep(Verb.VALIDATE) in each for each in left_out)


@EACH
def test_a_few_schedules_cover_every_situation(rule: KernelRules) -> None:
    schedules = enumerate_schedules(rule, 1).schedules
    few = select_covering_schedules(rule, schedules)
    every = {situation for each in schedules for situation in situations_of_schedule(rule, each)}
    assert {situation for each in few for situation in situations_of_schedule(rule, each)} == every
    assert len(few) < len(schedules)


@EACH
def test_a_kernel_of_the_rule_agrees(rule: KernelRules) -> None:
    for schedule in enumerate_schedules(rule, 2).schedules[::7]:
        play_schedule(ModelStage(rule), rule, schedule).prove()


def test_an_allocator_that_moves_modules_is_no_disagreement() -> None:
    text = "open read look remove reload load validate register return"
    played = play_schedule(ModelStage(TOKEN_RULES, moves=True), TOKEN_RULES, parse_schedule(text))
    played.prove()
    assert (str(played.played_steps[-1]), played.place_reused) == ("validate: ESTALE", False)
    assert play_schedule(ModelStage(TOKEN_RULES), TOKEN_RULES, parse_schedule(text)).place_reused


def wrong(play: PlayedSchedule) -> str:
    with pytest.raises(Missed) as missed:
        play.prove()
    return str(missed.value)


def test_a_disagreement_ends_the_schedule_and_names_its_line() -> None:
    reported = wrong(play_schedule(ModelStage(TOKEN_RULES), PINNING_RULES, parse_schedule("open read remove look")))
    assert reported.splitlines()[0] == "--schedule 'open read remove': remove: ok, the model predicts EWOULDBLOCK"


def test_a_count_that_is_not_balanced_is_a_disagreement() -> None:
    reported = wrong(play_schedule(ModelStage(TOKEN_RULES), PINNING_RULES, parse_schedule("open")))
    assert "at the end target referenced 0 times, no probe; the model predicts target referenced 2 times" in reported


@contextmanager
def staged(rule: KernelRules, *, moves: bool = False) -> Iterator[ModelStage]:
    yield ModelStage(rule, moves=moves)


def test_the_machine_shrinks_to_the_shortest_schedule() -> None:
    with pytest.raises(Missed, match=r"^--schedule 'open( remove)?': "):
        explore_schedules(
            lambda: staged(TOKEN_RULES), PINNING_RULES, schedules=50, steps=30, shrinks=True, varied=False
        )


@EACH
def test_the_few_that_are_always_drawn_distinguish_the_rules(rule: KernelRules) -> None:
    other = replace(rule, open_file_pins_target=not rule.open_file_pins_target)
    with pytest.raises(Missed):
        explore_schedules(lambda: staged(rule), other, schedules=FEW, steps=FEW_STEPS, shrinks=False, varied=False)


@EACH
@pytest.mark.parametrize("moves", [False, True])
def test_the_machine_agrees_with_a_kernel_of_its_rule(rule: KernelRules, moves: bool) -> None:
    played = explore_schedules(
        lambda: staged(rule, moves=moves), rule, schedules=30, steps=30, shrinks=False, varied=False
    )
    assert len(played) >= 30
    assert max(len(each.played_steps) for each in played) > 20


def test_every_long_schedule_is_a_schedule() -> None:
    def parsed(played: PlayedSchedule) -> Schedule:
        return parse_schedule(played.schedule_line)

    for each in explore_schedules(
        lambda: staged(TOKEN_RULES), TOKEN_RULES, schedules=10, steps=20, shrinks=False, varied=False
    ):
        assert parsed(each) == tuple(turn.step for turn in each.played_steps)


def test_a_guest_that_is_lost_is_no_schedule_that_fails() -> None:
    lost = GuestLost("the connection broke")

    class Mortal(ModelStage):
        def take_step(self, step: ScheduleStep, now: World) -> str:
            if now.instance_count > 1:
                raise lost
            return super().take_step(step, now)

    with pytest.raises(GuestLost) as raised:
        explore_schedules(
            lambda: nullcontext(Mortal(TOKEN_RULES)), TOKEN_RULES, schedules=30, steps=30, shrinks=True, varied=False
        )
    assert raised.value is lost


@pytest.mark.parametrize(
    "play",
    [
        pytest.param(lambda schedules: schedules.play_line("open read look"), id="line"),
        pytest.param(lambda schedules: schedules.play_each_schedule([parse_schedule("open read look")]), id="each"),
        pytest.param(lambda schedules: schedules.explore(), id="drawn"),
    ],
)
def test_no_probe_of_a_schedule_is_a_jump(monkeypatch: pytest.MonkeyPatch, play: Callable[[Schedules], object]) -> None:
    switched: list[str] = []

    def stage(_loaders: object) -> AbstractContextManager[ModelStage]:
        assert len(switched) == 1, "the stage is entered while probes are optimized"
        return nullcontext(ModelStage(TOKEN_RULES))

    def run_script(text: str) -> SimpleNamespace:
        switched.append(text)
        return SimpleNamespace(check=lambda: None)

    monkeypatch.setattr(schedule_fixture, "GuestStage", stage)
    traits = SimpleNamespace(optimized_kprobes=True, section_fd_pins=False, shared_loads=False)
    guest = SimpleNamespace(traits=traits, run_script=run_script)
    play(Schedules(cast(Any, SimpleNamespace(guest=guest, mutant=HONEST))))
    assert [text.partition(" >")[0] for text in switched] == ["echo 0", "echo 1"]
