"""What runs the processes of cell shards: on this host, or on the hosts of a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from harness.guest.accelerator import KVM, TCG
from harness.images.vm_recipe import Recipe
from harness.matrix.cell_shards.shard_order import Message, ShardOrder

# The abilities of a host, each followed by an architecture: `kvm-arm64`. The better accelerator comes first.
ABILITY_OF_ACCELERATOR = {KVM: "kvm", TCG: "qemu"}
BUILD = "build"


@dataclass(frozen=True)
class ShardEnd:
    """The end of a process: `how` describes it, empty if the process ended by itself after its tests."""

    how: str


Update = tuple[str, Message | ShardEnd]


@dataclass(frozen=True)
class ShardNeeds:
    """What a process and its guest use of a host: processor cores, GiB of memory, and one of these abilities.

    `abilities` are in the order of preference, such as `kvm-arm64` before `qemu-arm64`; empty if there is no guest.
    """

    vm: str
    cores: float
    gib: float
    abilities: tuple[str, ...] = ()


def needs_of_row(recipe: Recipe, forced_accelerator: str | None) -> ShardNeeds:
    """Return what a process of a row uses: half a core for each virtual one, as a guest and its client take turns."""
    forced = forced_accelerator
    ways = [ABILITY_OF_ACCELERATOR.get(forced, forced)] if forced else ABILITY_OF_ACCELERATOR.values()
    abilities = tuple(f"{way}-{recipe.arch}" for way in ways)
    return ShardNeeds(recipe.name, recipe.machine.cpus / 2, recipe.machine.memory_mib / 1024 + 0.5, abilities)


class ShardEngine(Protocol):
    """Runs processes of shards until it is stopped."""

    def lane_for(self, needs: ShardNeeds) -> str | None:
        """Return the name of a free lane for a process with these needs, None if none is free now."""

    def refusal(self, needs: ShardNeeds) -> str:
        """Return why no lane can ever run a process with these needs; empty if one can."""

    def start(self, order: ShardOrder) -> None:
        """Start the process of an order in its lane. Raises HostError."""

    def updates(self, seconds: float) -> Iterator[Update]:
        """Yield what the processes sent, by the name of the shard, after waiting at most `seconds` for the first."""

    def stop(self) -> list[str]:
        """End all processes, with their guests; return the names of their shards."""
