"""Places processes of shards on hosts, by what each host has and what is in use there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from harness.matrix.cell_shards.engine import ShardNeeds


@dataclass
class Host:
    """A host: its address in the cluster, what it has, and the needs of what runs there, by lane.

    `lacks` has the reason for each ability that it does not have. `images` are the VMs whose images it has got.
    """

    address: str
    name: str
    cores: float
    gib: float
    abilities: frozenset[str]
    most_lanes: int
    lacks: Mapping[str, str] = field(default_factory=dict)
    images: set[str] = field(default_factory=set)
    running: dict[str, ShardNeeds] = field(default_factory=dict)

    @property
    def free_cores(self) -> float:
        """The cores that nothing uses."""
        return self.cores - sum(needs.cores for needs in self.running.values())

    @property
    def free_gib(self) -> float:
        """The memory that nothing uses."""
        return self.gib - sum(needs.gib for needs in self.running.values())

    def can_ever_run(self, needs: ShardNeeds) -> bool:
        """Return True if the host could run this when it runs nothing else."""
        able = not needs.abilities or bool(self.abilities & set(needs.abilities))
        return able and needs.cores <= self.cores and needs.gib <= self.gib and self.most_lanes > 0

    def can_run_now(self, needs: ShardNeeds) -> bool:
        """Return True if the host has enough left."""
        left = needs.cores <= self.free_cores and needs.gib <= self.free_gib
        return left and self.can_ever_run(needs) and len(self.running) < self.most_lanes


class Placement:
    """The hosts of a run, each with lanes named `HOST/1`, `HOST/2` and so on."""

    def __init__(self, hosts: Iterable[Host]) -> None:
        self.hosts = {host.address: host for host in hosts}
        # Shards are placed in one thread, builds in others.
        self._turn = threading.RLock()

    def choose(self, needs: ShardNeeds) -> Host | None:
        """Return the best host that has room now: by ability, then one with the image, then the one with most room."""

        def worth(host: Host) -> tuple[int, bool, float]:
            ranks = [rank for rank, ability in enumerate(needs.abilities) if ability in host.abilities]
            return -min(ranks, default=0), needs.vm in host.images, host.free_cores

        with self._turn:
            return max(filter(lambda host: host.can_run_now(needs), self.hosts.values()), key=worth, default=None)

    def take_for_build(
        self, ability: str, more_cores_than: int, needs: Callable[[Host], ShardNeeds]
    ) -> tuple[Host, str] | None:
        """Put a build on the host with the most cores; return it with the lane, which is empty if it has no room now.

        `needs` returns what the build uses of a host. None if no host has the ability and more cores than that.
        """
        with self._turn:
            able = [
                each for each in self.hosts.values() if ability in each.abilities and each.can_ever_run(needs(each))
            ]
            better = [host for host in able if host.cores > more_cores_than]
            if not better:
                return None
            host = max(better, key=lambda each: (each.can_run_now(needs(each)), each.cores, each.free_cores))
            return host, self.take(host, needs(host)) if host.can_run_now(needs(host)) else ""

    def take(self, host: Host, needs: ShardNeeds) -> str:
        """Put a process on a host; return its lane."""
        with self._turn:
            lanes = (f"{host.name}/{number}" for number in range(1, len(host.running) + 2))
            lane = next(lane for lane in lanes if lane not in host.running)
            host.running[lane] = needs
            host.images.add(needs.vm)
            return lane

    def release(self, lane: str) -> None:
        """Free a lane."""
        with self._turn:
            for host in self.hosts.values():
                host.running.pop(lane, None)

    def refusal(self, needs: ShardNeeds) -> str:
        """Return why no host can ever run this; empty if one can."""
        if any(host.can_ever_run(needs) for host in self.hosts.values()):
            return ""
        wanted = " or ".join(needs.abilities)
        reasons = "; ".join(
            f"host {host.name}: {reason}" for host in self.hosts.values() for reason in _reasons_against(host, needs)
        )
        what = f"no host has {f'{wanted}, ' if wanted else ''}{needs.cores:g} cores and {needs.gib:.1f} GiB"
        return f"{what}: {reasons}" if reasons else what


def _reasons_against(host: Host, needs: ShardNeeds) -> list[str]:
    """Return why a host can never run this."""
    if not host.most_lanes:
        return ["it is gone"]
    reasons = [host.lacks[ability] for ability in needs.abilities if ability in host.lacks]
    if needs.abilities and not host.abilities & set(needs.abilities):
        return reasons or [f"it has no {' or '.join(needs.abilities)}"]
    return [f"it has {host.cores:g} cores and {host.gib:.1f} GiB"]
