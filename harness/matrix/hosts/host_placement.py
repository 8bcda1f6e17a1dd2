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
    `kept_for` is the task of an image that waits for room there: nothing else begins.
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
    kept_for: BuildNeeds | None = None

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


@dataclass(frozen=True, eq=False)
class BuildNeeds:
    """What a task of an image needs.

    `needs` returns what it uses of a host, `may_use` False for a host that it must not use. `seconds` is its past or
    assumed duration. With `near_image` it is best on a host that has parts of the image already.
    """

    vm: str
    needs: Callable[[Host], ShardNeeds]
    may_use: Callable[[Host], bool]
    seconds: float
    near_image: bool = False


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
            free = [host for host in self.hosts.values() if host.kept_for is None and host.can_run_now(needs)]
            return max(free, key=worth, default=None)

    def take_for_build(self, task: BuildNeeds) -> tuple[Host, str] | None:
        """Put a task of an image on the best host; return it with the lane, which is empty if none has room now.

        Then the best host is kept for the task: no row and no shorter task begins there before it. None if no host can
        ever run the task.
        """
        with self._turn:
            able = [each for each in self.hosts.values() if task.may_use(each) and each.can_ever_run(task.needs(each))]
            if not able:
                return None
            self.keep_no_host_for(task)
            free = [each for each in able if each.kept_for is None or each.kept_for.seconds < task.seconds]
            if not free:
                return able[0], ""

            def worth(each: Host) -> tuple[bool, bool, float]:
                return each.can_run_now(task.needs(each)), task.near_image and task.vm in each.images, each.free_cores

            host = max(free, key=worth)
            if host.can_run_now(task.needs(host)):
                return host, self.take(host, task.needs(host))
            host.kept_for = task
            return host, ""

    def has_room_for_build(self, task: BuildNeeds) -> Host | None:
        """Return a host that could begin the task now, None if there is none."""
        with self._turn:
            for each in self.hosts.values():
                kept = each.kept_for is not None and each.kept_for is not task and each.kept_for.seconds >= task.seconds
                if not kept and task.may_use(each) and each.can_run_now(task.needs(each)):
                    return each
            return None

    def keep_no_host_for(self, task: BuildNeeds) -> None:
        """Keep no host for a task any more."""
        with self._turn:
            for each in self.hosts.values():
                if each.kept_for is task:
                    each.kept_for = None

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
        size = f"{needs.cores:g} cores and {needs.gib:.1f} GiB" if needs.gib else ""
        what = f"no host has {', '.join(filter(None, (wanted, size)))}"
        return f"{what}: {reasons}" if reasons else what


def _reasons_against(host: Host, needs: ShardNeeds) -> list[str]:
    """Return why a host can never run this."""
    if not host.most_lanes:
        return ["it is gone"]
    reasons = [host.lacks[ability] for ability in needs.abilities if ability in host.lacks]
    if needs.abilities and not host.abilities & set(needs.abilities):
        return reasons or [f"it has no {' or '.join(needs.abilities)}"]
    return [f"it has {host.cores:g} cores and {host.gib:.1f} GiB"]
