"""Images and frozen guests go from the controller's store to those of hosts, each once, and are compared on arrival."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from test_hosts import host
from test_remote_builds import LAYERS, SOURCE, Hosts
from test_store_exchange import build

from harness.core import paths
from harness.core.errors import HostError
from harness.core.events import Bus, EventKind
from harness.guest import accelerator
from harness.guest.accelerator import KVM, TCG, Accelerator
from harness.images import agreed_layers, prepare
from harness.images.build_context import BuildContext
from harness.matrix.controller_run import ControllerRun
from harness.matrix.guests import freezer
from harness.matrix.hosts import own_files
from harness.matrix.hosts.image_sender import ImageSender

PARTS = ["a frozen guest"]


class Sending(Hosts):
    """A controller with an image and a frozen guest in its store, and a host named `a`."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(directory, monkeypatch)
        monkeypatch.delenv(paths.OWN_TREE, raising=False)
        monkeypatch.setattr(freezer, "frozen_guest_key_parts", lambda *_: PARTS)
        self.tasks: Counter[str] = Counter()
        self.run_under(monkeypatch, TCG)
        context = BuildContext.in_cache(self.bus)
        self._prepare(SOURCE, context)
        context.store.obtain(freezer.KIND, PARTS, vm=SOURCE.name, build=build)
        results = directory / "results"
        results.mkdir()
        controller = SimpleNamespace(
            recipes={SOURCE.name: SOURCE},
            bus=self.bus,
            directory=SimpleNamespace(path=results),
            forced_accelerator=None,
        )
        self.sender = ImageSender(cast(ControllerRun, controller))
        self.a = host("a", 1, 1)

    def run_under(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setattr(accelerator, "choose", lambda *_: Accelerator(name, ""))

    def send(self, *, boots: bool = True) -> None:
        self.sender.send(SOURCE.name, "tls://a", self.on_host, boots=boots)

    def on_host(self, key: str, work: Callable[..., Any], *given: Any, **named: Any) -> Any:  # noqa: ANN401
        self.tasks[work.__name__] += 1
        return self.run_on(self.a, key, work, *given, **named)

    def has_frozen_guest(self) -> bool:
        """Is the frozen guest in the host's store?"""
        return any((self.directory / "a" / "store").glob(f"{freezer.KIND}-*"))

    def _prepare(self, recipe: Any, context: BuildContext) -> Any:  # noqa: ANN401
        super()._prepare(recipe, context)
        return SimpleNamespace(recipe=recipe)


@pytest.fixture
def sending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sending:
    made = Sending(tmp_path, monkeypatch)
    monkeypatch.setattr(prepare, "prepare", made._prepare)
    return made


def test_an_image_and_its_frozen_guest_are_sent_once(sending: Sending) -> None:
    sending.send()
    assert sending.has_frozen_guest()
    sending.send()
    assert (sending.tasks["import_image"], sending.tasks["import_entry"]) == (1, 1)
    assert list((sending.directory / "a" / "arrivals").iterdir()) == []


def test_a_host_that_lacks_a_part_after_the_import_does_not_run(sending: Sending) -> None:
    def remove(error: str) -> str:
        return error or "not every part of the image of parisc arrived"

    sending.broken["import_image"] = remove
    with pytest.raises(HostError, match="not every part of the image of parisc arrived"):
        sending.send()


def test_the_inputs_of_the_image_arrive(sending: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes on the host mean the image of the controller, whatever they would compute themselves."""
    sending.send()
    own = sending.sender.own_with_images([SOURCE.name])
    monkeypatch.setattr(paths, "cache", lambda: sending.directory / "a")
    context = BuildContext.in_cache(Bus())
    with own_files.in_use(own, context):
        assert agreed_layers.find(SOURCE.name, context.store) == LAYERS
    assert agreed_layers.find(SOURCE.name, context.store) is None


def test_parts_of_a_row_that_begin_at_once_send_it_once(sending: Sending) -> None:
    threads = [threading.Thread(target=sending.send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (sending.tasks["import_image"], sending.tasks["import_entry"]) == (1, 1)
    assert sending.has_frozen_guest()


def test_no_frozen_guest_goes_to_a_host_with_kvm(sending: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
    sending.run_under(monkeypatch, KVM)
    sending.send()
    assert not sending.has_frozen_guest()


def test_no_frozen_guest_of_an_image_that_is_only_compared(sending: Sending) -> None:
    sending.send(boots=False)
    assert (sending.tasks["import_image"], sending.has_frozen_guest()) == (1, False)


def test_a_frozen_guest_that_the_controller_lacks_is_made_by_the_host(sending: Sending) -> None:
    BuildContext.in_cache(sending.bus).store.remove(freezer.KIND, PARTS)
    for entry in (sending.directory / "controller" / "store").glob(f"{freezer.KIND}-*"):
        entry.rename(entry.with_name("away"))
    sending.send()
    assert not sending.has_frozen_guest()
    assert sending.tasks["import_entry"] == 0


def test_a_frozen_guest_that_changed_on_the_way_is_not_used(sending: Sending) -> None:
    def change(_: object) -> None:
        for part in (sending.directory / "a" / "arrivals").glob(f"{freezer.KIND}-*"):
            content = part.read_bytes()
            part.write_bytes(content[:500] + bytes([content[500] ^ 1]) + content[501:])

    sending.broken["receive_chunk"] = change
    sending.send()
    assert not sending.has_frozen_guest()
    details = [event.detail for event in sending.events if event.kind is EventKind.FINISHED]
    assert any(text.startswith("not used: frozen-") and text.endswith(" arrived damaged") for text in details)
