"""The parties of the protocol: instances of the target, loaders, the probe module."""

from __future__ import annotations

from dataclasses import dataclass

from harness.pinning.protocol.steps import INITIALIZER, LOADER_STEPS, Verb

# The build of the target that the probe module was compiled for.
EXPECTED = "first"


@dataclass(frozen=True)
class TargetInstance:
    """One instance of the target. `place` identifies the addresses of its sections; instances may share it."""

    number: int
    build: str = EXPECTED
    place: str = EXPECTED


@dataclass(frozen=True)
class LoaderModel:
    """One loader in the model.

    `steps_taken` is the number of steps that it took. `token_instance`, `handle_instance` and `base_instance` are the
    instances that its tokens, its handle and its base belong to; `token_instance` represents all of its tokens, which
    it opens in one step. `killed_in_init_module` is set if it was killed inside of init_module(2), `ended` if it takes
    no more steps, `waiting` while its init_module(2) waits for another one of the same name.
    """

    steps_taken: int = 0
    token_instance: TargetInstance | None = None
    handle_instance: TargetInstance | None = None
    base_instance: TargetInstance | None = None
    killed_in_init_module: bool = False
    ended: bool = False
    waiting: bool = False

    @property
    def next_step(self) -> Verb | None:
        """The loader's next step; None if it has ended or waits."""
        return None if self.ended or self.waiting else LOADER_STEPS[self.steps_taken]

    @property
    def is_in_init_module(self) -> bool:
        """True if the loader is inside of init_module(2)."""
        return self.waiting or (not self.ended and self.next_step in INITIALIZER)


@dataclass(frozen=True)
class ProbeModule:
    """The probe module: its loader, whether it is LIVE, and the instance that its initializer holds a reference to."""

    loader_number: int
    is_live: bool = False
    held_instance: TargetInstance | None = None
