"""Images are built on the host with the most cores, if it has more than the controller, and imported (--hosts)."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_hosts import host
from test_store_exchange import KEY, PARTS, build

from harness.core.errors import BuildError, HostError, UsageError
from harness.core.events import Bus, Event, EventKind
from harness.images import prepare
from harness.images.build_context import BuildContext
from harness.images.vm_recipe import Recipe, load_all
from harness.matrix.cell_shards.engine import ShardNeeds
from harness.matrix.hosts import build_on_host
from harness.matrix.hosts.host_placement import Host, Placement
from harness.matrix.hosts.remote_builds import RemoteBuilds


class Hosts:
    """Hosts whose functions run in this process, with the cache of the host. `broken` replaces a function's result."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.built: list[str] = []
        self.broken: dict[str, Callable[..., Any]] = {}
        self.events: list[Event] = []
        self.bus = Bus()
        self.bus.add_listener(self.events.append)
        self._monkeypatch = monkeypatch
        self._use("controller")
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
        monkeypatch.setattr(prepare, "store_entries", lambda *_: PARTS)
        monkeypatch.setattr(prepare, "layers_of", lambda *_: PARTS)
        monkeypatch.setattr(prepare, "image_key", lambda *_: KEY)
        monkeypatch.setattr(prepare, "is_built", self._is_built)
        monkeypatch.setattr(prepare, "prepare", self._prepare)

    def obtain(self, recipe: Recipe, *hosts: Host) -> Placement:
        placement = Placement(hosts)
        RemoteBuilds(placement, self._run_on, self.bus).obtain(recipe)
        assert not any(each.running for each in placement.hosts.values())
        return placement

    @property
    def last_words(self) -> str:
        """The last step's end."""
        return next(event.detail for event in reversed(self.events) if event.kind is EventKind.FINISHED)

    def has_image(self) -> bool:
        """Is the image in the controller's store?"""
        return self._is_built(None, BuildContext.in_cache(Bus()))

    def _use(self, name: str) -> None:
        self._monkeypatch.setenv("PINPOINT_CACHE", str(self.directory / name))

    def _run_on(self, on: Host, _key: str, work: Callable[..., Any], *given: object) -> Any:  # noqa: ANN401 - as Cluster
        self._use(on.name)
        try:
            result = work(*given)
        finally:
            self._use("controller")
        return self.broken[work.__name__](result) if work.__name__ in self.broken else result

    def _prepare(self, recipe: Recipe, context: BuildContext) -> None:
        self.built.append(context.store.root.parent.name)
        for kind, parts in PARTS.items():
            context.store.obtain(kind, parts, vm=recipe.name, build=build)

    def _is_built(self, _recipe: object, context: BuildContext) -> bool:
        return all(context.store.present(kind, parts) for kind, parts in PARTS.items())


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hosts:
    return Hosts(tmp_path, monkeypatch)


SOURCE = load_all()["parisc"]
LARGE = ("large", 16, 32, "build-parisc")


def test_the_host_with_the_most_cores_builds(hosts: Hosts) -> None:
    hosts.obtain(SOURCE, host("medium", 4, 8, "build-parisc"), host(*LARGE), host("other", 64, 64, "qemu-parisc"))
    assert hosts.built == ["large"]
    assert hosts.has_image()
    assert hosts.last_words == "on host large"
    assert list((hosts.directory / "large" / "leaving").iterdir()) == []
    # The second time it is in the controller's store.
    hosts.obtain(SOURCE, host(*LARGE))
    assert hosts.built == ["large"]


@pytest.mark.parametrize(
    "given", [[host("equal", 2, 8, "build-parisc")], [host("unable", 16, 32, "qemu-parisc", "build-arm64")], []]
)
def test_no_better_host_builds_nothing(hosts: Hosts, given: list[Host]) -> None:
    hosts.obtain(SOURCE, *given)
    assert (hosts.built, hosts.has_image()) == ([], False)


def test_sources_of_the_controllers_host_are_built_there(hosts: Hosts) -> None:
    kernel = SOURCE.kernel.model_copy(update={"source": "tree", "tree": "/home/me/linux"})
    hosts.obtain(SOURCE.model_copy(update={"kernel": kernel}), host(*LARGE))
    assert hosts.built == []


def test_a_build_that_fails_on_a_host_is_not_repeated_elsewhere(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise BuildError("make: kernel/fork.c does not compile")

    monkeypatch.setattr(prepare, "prepare", fail)
    with pytest.raises(BuildError, match=r"on host large: make: kernel/fork.c does not compile"):
        hosts.obtain(SOURCE, host(*LARGE))


def test_a_host_that_is_lost_leaves_the_build_to_the_controller(hosts: Hosts) -> None:
    def lose(_: object) -> None:
        raise OSError("connection closed")

    hosts.broken["build_image"] = lose
    hosts.obtain(SOURCE, host(*LARGE))
    assert not hosts.has_image()
    assert hosts.last_words == "host large was lost (OSError); building here"


def change_largest_member(archive: bytes) -> bytes:
    """Change a byte of a file's content; between files an archive has bytes that no reader uses."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        largest = max(tar.getmembers(), key=lambda member: member.size)
    place = largest.offset_data + largest.size // 2
    return archive[:place] + bytes([archive[place] ^ 1]) + archive[place + 1 :]


def test_an_image_that_changed_on_the_way_is_refused(hosts: Hosts) -> None:
    hosts.broken["read_chunk"] = change_largest_member
    with pytest.raises(UsageError):
        hosts.obtain(SOURCE, host(*LARGE))
    assert not hosts.has_image()


def test_an_image_that_ends_early_is_refused(hosts: Hosts) -> None:
    hosts.broken["read_chunk"] = lambda _: b""
    with pytest.raises(HostError, match=r"sent only 0 of [0-9]+ bytes of an image"):
        hosts.obtain(SOURCE, host(*LARGE))


def test_another_image_is_built_here(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's compilers make another key: what arrives is not what the controller wants."""
    monkeypatch.setattr(prepare, "is_built", lambda *_: False)
    hosts.obtain(SOURCE, host(*LARGE))
    assert hosts.last_words == "host large has other packages or compilers; building here"


def test_a_compile_has_a_host_for_itself(hosts: Hosts) -> None:
    busy, free = host(*LARGE), host("free", 8, 32, "build-parisc")
    placement = Placement([busy, free])
    placement.take(busy, ShardNeeds("x", 0.5, 1))
    taken = placement.take_for_build("build-parisc", 2, lambda each: ShardNeeds("parisc", each.cores, 3))
    assert taken == (free, "free/1")
    assert placement.take_for_build("build-parisc", 2, lambda each: ShardNeeds("arm", each.cores, 3)) == (busy, "")
    assert placement.choose(ShardNeeds("y", 0.5, 1, ("build-parisc",))) is busy
    assert hosts.built == []


def test_the_archive_of_a_failed_build_is_removed(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "prepare", lambda *_: 1 // 0)
    archive, size, error = build_on_host.build_image(SOURCE.model_dump_json())
    assert (archive, size) == ("", 0)
    assert "ZeroDivisionError" in error
    assert list((hosts.directory / "controller" / "leaving").iterdir()) == []
