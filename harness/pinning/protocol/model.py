"""A model of loading a precompiled probe module while its target is loaded and removed.

It has the kernel's rules and calls neither the kernel nor the loader; walking the model predicts a schedule. The two
pin rules differ in one line, `World.is_referenced`, and the two rules of loading in one method, `World._settled`.
Sources are of 6.1 unless noted:

- delete_module(2): ENOENT, EBUSY if not LIVE, EWOULDBLOCK while referenced (kernel/module/main.c:696);
- a second init_module(2) of a name that is loading waits, and then fails with EEXIST if the first load succeeded, else
  with EBUSY (main.c:2581);
- since 6.5 a second finit_module(2) of a file that is loading waits too, and returns the first one's result without
  loading anything; its own parameters are never read (idempotent_init_module(), main.c, 6.12);
- an open section file takes no reference since 2.6.23; a read of one whose instance is gone returns ENODEV (fs/kernfs);
- SIGKILL of a loader inside of init_module(2) takes effect when the initializer has returned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from harness.pinning.protocol.steps import LOADER_STEPS, ScheduleStep, Verb
from harness.pinning.protocol.target_loader_probe_states import EXPECTED, LoaderModel, ProbeModule, TargetInstance

OK = "ok"
WAITS = "waits"
KILLED = "killed"

# The number of the target's files that a loader holds open: the handle's, and that of the section with the sites.
TOKENS = 2

# The build that each verb loads, and its usual place: an idle allocator returns the same place for the same sizes.
_LOADED = {
    Verb.RELOAD: (EXPECTED, EXPECTED),
    Verb.REBUILD: ("other", "other"),
    Verb.IMITATE: ("imitation", EXPECTED),
}


@dataclass(frozen=True)
class KernelRules:
    """The rules in which kernels differ.

    `open_file_pins_target`: an open section file is not only a token, which distinguishes instances; the kernel also
    refuses removal while it is open. `shares_load_result`: a load that waits for another load of the same file has the
    result of that load.
    """

    open_file_pins_target: bool = False
    shares_load_result: bool = False


TOKEN_RULES = KernelRules()
PINNING_RULES = KernelRules(open_file_pins_target=True)
SHARING_RULES = KernelRules(shares_load_result=True)


class UndefinedBehaviorError(Exception):
    """The step frees a module under a reference; the kernel's behavior is undefined after that."""


class StepNotPossibleError(Exception):
    """The step cannot be taken in this world, because its loader is at another step or has ended."""


@dataclass(frozen=True)
class World:
    """The state of the model: the target's present instance, the number of its instances, the probe, the loaders."""

    rule: KernelRules
    target: TargetInstance | None
    loaders: Mapping[int, LoaderModel]
    instance_count: int = 1
    probe: ProbeModule | None = None

    @property
    def is_referenced(self) -> bool:
        """True if the target is referenced."""
        return self._by_probe or (self.rule.open_file_pins_target and any(self._fds))

    @property
    def _by_probe(self) -> bool:
        return self.probe is not None and self.probe.held_instance is not None

    @property
    def _fds(self) -> list[bool]:
        return [
            loader.token_instance is not None and loader.token_instance == self.target
            for loader in self.loaders.values()
        ]

    @property
    def expected_kernel_state(self) -> str:
        """The state that the kernel must show: the target's reference count and the probe module's state."""
        count = TOKENS * sum(self._fds) * self.rule.open_file_pins_target + self._by_probe
        target = "no target" if self.target is None else f"target referenced {count} times"
        probe = "no probe" if self.probe is None else "probe live" if self.probe.is_live else "probe loading"
        return f"{target}, {probe}"

    def world_and_outcome_after(self, step: ScheduleStep, place: str | None = None) -> tuple[World, str]:
        """The world after a step, and the step's predicted outcome: `ok`, an errno's name, `waits`, `killed`.

        If the step ends the wait of another loader, its outcome follows: `ok, 2.load EEXIST`. `place` is the place at
        which a newly loaded target was found, which no rule predicts; without it, the usual place is assumed. Raises
        StepNotPossibleError and UndefinedBehaviorError.
        """
        loader = self.loaders.get(step.loader)
        if (
            loader is None
            or (step.is_loader_step and loader.next_step is not step.verb)
            or (step.verb is Verb.KILL and loader.ended)
        ):
            raise StepNotPossibleError(f"{step} cannot be taken now")
        match step.verb:
            case Verb.REMOVE | Verb.FORCE:
                return self._removed(forced=step.verb is Verb.FORCE)
            case Verb.RELOAD | Verb.REBUILD | Verb.IMITATE:
                return self._loaded(step.verb, place)
            case Verb.UNPROBE:
                return self._unprobed()
            case Verb.KILL:
                return self._killed(step.loader, loader)
            case Verb.OPEN | Verb.READ | Verb.LOOK | Verb.REREAD | Verb.CLOSE:
                return self._outside(step, loader)
            case Verb.LOAD:
                return self._entered(step.loader, loader)
        return self._inside(step, loader)

    def _removed(self, *, forced: bool) -> tuple[World, str]:
        if self.target is None:
            return self, "ENOENT"
        if self._by_probe and forced:
            raise UndefinedBehaviorError("force frees the target under the initializer's reference")
        if self.is_referenced and not forced:
            return self, "EWOULDBLOCK"
        # Forced removal under open fds only is defined: removing the file releases their references (kernfs_drain(),
        # 6.1).
        return replace(self, target=None), OK

    def _loaded(self, verb: Verb, place: str | None) -> tuple[World, str]:
        if self.target is not None:
            return self, "EEXIST"
        build, usual = _LOADED[verb]
        number = self.instance_count + 1
        return replace(self, target=TargetInstance(number, build, place or usual), instance_count=number), OK

    def _unprobed(self) -> tuple[World, str]:
        if self.probe is None:
            return self, "ENOENT"
        if not self.probe.is_live:
            return self, "EBUSY"
        return replace(self, probe=None), OK

    def _killed(self, number: int, loader: LoaderModel) -> tuple[World, str]:
        if loader.waiting or not loader.is_in_init_module:
            return self._with(number, _ended(loader)), KILLED
        return self._with(number, replace(loader, killed_in_init_module=True)), WAITS

    def _outside(self, step: ScheduleStep, loader: LoaderModel) -> tuple[World, str]:
        """The steps that a loader takes in user space."""
        over = self._with(step.loader, _ended(loader))
        gone = loader.token_instance != self.target
        match step.verb:
            case Verb.OPEN | Verb.LOOK if self.target is None:
                return over, "ENOENT"
            case Verb.READ if gone:
                return over, "ENODEV"
            case Verb.REREAD if gone:
                return over._undone()
            case Verb.CLOSE:
                return over, OK
            case Verb.OPEN:
                done = replace(loader, token_instance=self.target)
            case Verb.READ:
                done = replace(loader, handle_instance=loader.token_instance)
            case Verb.LOOK:
                done = replace(loader, base_instance=self.target)
            case _:
                done = loader
        return self._with(step.loader, _onward(done)), OK

    def _undone(self) -> tuple[World, str]:
        """The token is stale: the loader removes the probe module, or another module that has its name by now."""
        after, removed = self._unprobed()
        return after, "ENODEV" if removed == OK else f"ENODEV, undo {removed}"

    def _entered(self, number: int, loader: LoaderModel) -> tuple[World, str]:
        """The step init_module(2), up to the initializer."""
        if self.probe is not None and not self.probe.is_live:
            return self._with(number, replace(loader, waiting=True)), WAITS
        if self.probe is not None:
            return self._with(number, _ended(loader)), "EEXIST"
        return replace(self._with(number, _onward(loader)), probe=ProbeModule(number)), OK

    def _inside(self, step: ScheduleStep, loader: LoaderModel) -> tuple[World, str]:
        """The steps of the initializer."""
        assert self.probe is not None
        onward = self._with(step.loader, _onward(loader))
        match step.verb:
            case Verb.VALIDATE if not _valid(loader, self.target):
                world = replace(self._with(step.loader, _ended(loader)), probe=None)
                return world._settled(KILLED if loader.killed_in_init_module else "ESTALE", "ESTALE", "EBUSY")
            case Verb.VALIDATE:
                return replace(onward, probe=replace(self.probe, held_instance=self.target)), OK
            case Verb.REGISTER:
                return onward, OK
        world = replace(onward, probe=replace(self.probe, is_live=True, held_instance=None))
        if loader.killed_in_init_module:
            world = world._with(step.loader, _ended(loader))
        return world._settled(KILLED if loader.killed_in_init_module else OK, OK, "EEXIST")

    def _settled(self, outcome: str, result: str, refusal: str) -> tuple[World, str]:
        """The initializer has returned a result: a loader that waited for it is refused, or has the same result."""
        waiting = next((number for number, loader in self.loaders.items() if loader.waiting), None)
        if waiting is None:
            return self, outcome
        returned = result if self.rule.shares_load_result else refusal
        loader = self.loaders[waiting]
        after = (
            _ended(loader)
            if returned != OK
            else replace(loader, waiting=False, steps_taken=LOADER_STEPS.index(Verb.REREAD))
        )
        return self._with(waiting, after), f"{outcome}, {ScheduleStep(Verb.LOAD, waiting)} {returned}"

    def _with(self, number: int, loader: LoaderModel) -> World:
        return replace(self, loaders={**self.loaders, number: loader})


def initial_world(rule: KernelRules, place: str = EXPECTED) -> World:
    """The world before a schedule: the target at `place`, no probe module, and two loaders at their first gate."""
    return World(rule, TargetInstance(1, place=place), {1: LoaderModel(), 2: LoaderModel()})


def _valid(loader: LoaderModel, target: TargetInstance | None) -> bool:
    """True if the handle and base that a loader found pass validation by address, name, base and build-id.

    Another instance of the same build at the same place passes too; this is why the token is read again.
    """
    if target is None or loader.handle_instance is None or loader.base_instance is None or target.build != EXPECTED:
        return False
    return loader.handle_instance.place == loader.base_instance.place == target.place


def _onward(loader: LoaderModel) -> LoaderModel:
    return replace(loader, steps_taken=loader.steps_taken + 1)


def _ended(loader: LoaderModel) -> LoaderModel:
    """A loader whose process has ended, so that its fds are closed."""
    return replace(loader, ended=True, waiting=False, token_instance=None)
