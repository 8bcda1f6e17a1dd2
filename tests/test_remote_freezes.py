"""A guest is frozen once, on one host, and comes back to the controller; how it failed is the verdict of its row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from test_hosts import host
from test_store_exchange import build

from harness.core import paths
from harness.core.errors import BootError, HostError
from harness.core.events import Bus, EventKind
from harness.guest import accelerator
from harness.guest.accelerator import KVM, TCG, Accelerator
from harness.images import prepare
from harness.images.build_context import BuildContext
from harness.images.image import Image
from harness.images.vm_recipe import load_all
from harness.matrix.cells.cell_phases_and_verdict import verdict_of_error
from harness.matrix.controller_run import ControllerRun
from harness.matrix.guests import fleet, freezer
from harness.matrix.guests.freezer import FreezeFailed
from harness.matrix.hosts.build_tasks import BuildTurns
from harness.matrix.hosts.host_placement import Host, Placement
from harness.matrix.hosts.image_sender import ImageSender
from harness.matrix.hosts.own_files import NONE
from harness.matrix.hosts.remote_freezes import RemoteFreezes
from harness.verdict.cell_verdict_enum import Verdict

RECIPE = load_all()["parisc"]
PARTS = ["a frozen guest"]
EMULATES = ("a", 2, 8, "qemu-parisc")


class Freezing:
    """A controller and hosts in this process; `frozen` are the hosts on which a guest was booted."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.frozen: list[str] = []
        self.name_here = "controller"
        self.error: Exception | None = None
        self.sent: list[tuple[str, str]] = []
        self.bus = Bus()
        self.failures: list[str] = []
        self.bus.add_listener(lambda event: self.failures.append(event.detail) if event.kind is EventKind.FAILED else 0)
        monkeypatch.setattr(paths, "cache", lambda: directory / self.name_here)
        monkeypatch.setattr(prepare, "prepare", lambda recipe, _: SimpleNamespace(recipe=recipe))
        monkeypatch.setattr(freezer, "frozen_guest_key_parts", lambda *_: PARTS)
        monkeypatch.setattr(accelerator, "choose", lambda *_: Accelerator(TCG, ""))
        monkeypatch.setattr(freezer.Freezer, "obtain_frozen_state_file", self._obtain)

    def freeze(self, *hosts: Host, forced: str | None = None) -> tuple[str, str] | None:
        placement = Placement(hosts)
        controller = SimpleNamespace(
            forced_accelerator=forced, bus=self.bus, directory=SimpleNamespace(path=self.directory / "results")
        )
        sender = SimpleNamespace(
            send_own_files=lambda _: None,
            send=lambda vm, to, *_, **_named: self.sent.append((vm, to)),
            own_with_images=lambda _: NONE,
        )
        freezes = RemoteFreezes(
            placement,
            BuildTurns(placement),
            self._run_on,
            cast(ImageSender, sender),
            cast(ControllerRun, controller),
            {},
        )
        failure = freezes.freeze(cast(Image, SimpleNamespace(recipe=RECIPE)))
        assert not any(each.running or each.kept_for for each in hosts)
        return failure

    def has_frozen_guest(self) -> bool:
        """Is it in the controller's store?"""
        return BuildContext.in_cache(Bus()).store.present(freezer.KIND, PARTS)

    def _run_on(self, on: Host, _key: str, work: Callable[..., Any], *given: object, **named: object) -> Any:  # noqa: ANN401
        self.name_here = on.name
        try:
            return work(*given, **named)
        finally:
            self.name_here = "controller"

    def _obtain(self, *_: object) -> None:
        self.frozen.append(self.name_here)
        if self.error:
            log = paths.cache() / "logs" / "freeze-parisc.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_bytes(b"Kernel panic\n")
            raise self.error
        BuildContext.in_cache(Bus()).store.obtain(freezer.KIND, PARTS, vm="parisc", build=build)


@pytest.fixture
def freezing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Freezing:
    return Freezing(tmp_path, monkeypatch)


def test_a_guest_is_frozen_on_one_host_and_comes_back(freezing: Freezing) -> None:
    assert freezing.freeze(host(*EMULATES), host("b", 1, 8, "qemu-parisc"), host("c", 9, 9, "build-parisc")) is None
    assert (freezing.frozen, freezing.sent) == (["a"], [("parisc", "tls://a")])
    assert freezing.has_frozen_guest()
    assert list((freezing.directory / "a" / "leaving").iterdir()) == []


@pytest.mark.parametrize(
    ("forced", "abilities", "frozen"),
    [
        (None, ("kvm-parisc", "qemu-parisc"), []),
        (KVM, ("kvm-parisc", "qemu-parisc"), []),
        (TCG, ("kvm-parisc", "qemu-parisc"), ["a"]),
        (None, ("kvm-arm64", "qemu-parisc"), ["a"]),
        (None, ("kvm-arm64", "build-parisc"), []),
    ],
)
def test_under_kvm_each_host_freezes_its_own(
    freezing: Freezing, forced: str | None, abilities: tuple[str, ...], frozen: list[str]
) -> None:
    freezing.freeze(host("a", 2, 8, *abilities), forced=forced)
    assert freezing.frozen == frozen


def test_a_guest_that_fails_fails_its_row(freezing: Freezing) -> None:
    freezing.error = BootError("the kernel panicked")
    failure = freezing.freeze(host(*EMULATES))
    assert failure == ("boot-fail", "the kernel panicked")
    assert freezing.failures == ["on host a: the kernel panicked"]
    assert (freezing.directory / "results/console/parisc-freeze.log").read_bytes() == b"Kernel panic\n"
    assert not freezing.has_frozen_guest()
    assert verdict_of_error(FreezeFailed(*failure)) is Verdict.BOOT_FAIL


def test_a_host_that_fails_costs_only_time(freezing: Freezing) -> None:
    freezing.error = HostError("QEMU is gone")
    assert freezing.freeze(host(*EMULATES)) is None
    assert freezing.failures == ["on host a: QEMU is gone"]


def test_a_row_whose_guest_failed_elsewhere_boots_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = Bus()
    made = fleet.Fleet(
        [RECIPE],
        build_context=BuildContext.in_cache(bus),
        bus=bus,
        directory=tmp_path,
        forced_accelerator=None,
        freeze_failures={"parisc": ("boot-fail", "the kernel panicked")},
    )
    monkeypatch.setattr(fleet, "prepare", lambda recipe, _: SimpleNamespace(recipe=recipe))
    with pytest.raises(FreezeFailed, match="the kernel panicked"):
        made.guest("parisc")
    made.close()
