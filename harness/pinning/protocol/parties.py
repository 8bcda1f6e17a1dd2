"""The parties of the protocol: lives of the target, loaders, the probe module."""

from __future__ import annotations

from dataclasses import dataclass

from harness.pinning.protocol.steps import INITIALIZER, LIFE, Verb

# The build of the target that the probe module was compiled for.
EXPECTED = "first"


@dataclass(frozen=True)
class Instance:
    """One life of the target. `place` identifies the addresses of its sections; a later life may have the same."""

    number: int
    build: str = EXPECTED
    place: str = EXPECTED


@dataclass(frozen=True)
class LoaderModel:
    """One loader: how many steps of its life it took, whose its fds are, where its handle and its base came from.

    `fd` stands for all of its tokens, which it opens in one step; `doomed` when it was killed inside of init_module(2),
    `ended` when it will take no more steps, `waiting` while its init_module(2) waits for another of the same name.
    """

    taken: int = 0
    fd: Instance | None = None
    handle: Instance | None = None
    base: Instance | None = None
    doomed: bool = False
    ended: bool = False
    waiting: bool = False

    @property
    def next(self) -> Verb | None:
        """The next step of its life, None when there is none for it to take."""
        return None if self.ended or self.waiting else LIFE[self.taken]

    @property
    def inside(self) -> bool:
        """Is it inside of init_module(2)?"""
        return self.waiting or (not self.ended and self.next in INITIALIZER)


@dataclass(frozen=True)
class Probe:
    """The probe module: whose it is, whether it is LIVE, and the instance that its initializer holds a reference to."""

    owner: int
    live: bool = False
    holds: Instance | None = None
