"""The controller of a run receives events and requests from its workers."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from harness.core.errors import BuildError, HostError
from harness.core.events import Bus, Event, EventKind
from harness.matrix.cells.selection import CellId
from harness.matrix.workers.controller_socket import Controller, ControllerClient

SOON = 60.0


class Site:
    """A controller, the events that it received, and the images that workers requested."""

    def __init__(self) -> None:
        self.received: list[Event] = []
        self.rows: list[tuple[list[str], list[str]]] = []
        self.news = threading.Event()
        self.image_is_there = threading.Event()
        bus = Bus()
        bus.add_listener(self.receive)
        self.controller = Controller(bus, lambda *rows: self.rows.append(rows), self.build)

    def receive(self, event: Event) -> None:
        self.received.append(event)
        self.news.set()

    def build(self, name: str) -> None:
        if name == "vax":
            raise HostError("no mirror", mend="see the network")
        assert self.image_is_there.wait(SOON)


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.controller.close()


def test_events_of_a_worker_reach_the_controller_as_they_are(site: Site) -> None:
    own = Bus()
    own.add_listener(ControllerClient(site.controller.address).send_event)
    # There may be thousands of time accounts, so they are sent when the worker ends.
    own.record_seconds("parisc", "body", 1.0)
    with own.step("parisc", "boot") as step:
        step.publish_progress("half", 0.5)
        step.set_final_detail("up")
    while [event.detail for event in site.received] != ["", "half", "up"]:
        assert site.news.wait(SOON)
        site.news.clear()
    assert [(event.vm, event.step, event.kind.value, event.fraction) for event in site.received] == [
        ("parisc", "boot", "started", None),
        ("parisc", "boot", "progress", 0.5),
        ("parisc", "boot", "finished", None),
    ]


def test_an_image_is_waited_for_while_news_go_on(site: Site) -> None:
    worker = ControllerClient(site.controller.address)
    waiting = threading.Thread(target=worker.wait_until_image_is_built, args=("parisc",))
    waiting.start()
    worker.send_event(Event("parisc", "boot", EventKind.STARTED))
    assert site.news.wait(SOON)
    assert waiting.is_alive()
    site.image_is_there.set()
    waiting.join(SOON)
    assert not waiting.is_alive()


def test_a_failed_build_is_reported_with_its_output(site: Site) -> None:
    with pytest.raises(BuildError, match="no mirror; see the network"):
        ControllerClient(site.controller.address).wait_until_image_is_built("vax")


def test_only_the_first_workers_rows_count(site: Site) -> None:
    site.image_is_there.set()
    for rows in (["a"], ["b"]):
        worker = ControllerClient(site.controller.address)
        worker.send_rows_and_selected_cells(rows, [], {name: CellId("case", name, "", "item") for name in rows})
        # Requests of one connection are answered in order, different connections in parallel.
        worker._send({"image": "x"})
        assert worker._connection.recv(100)
    assert site.rows == [(["a"], [])]
    assert site.controller.selected_cells == {"a": CellId("case", "a", "", "item")}


def test_a_controller_that_is_gone_costs_no_traceback(site: Site) -> None:
    worker = ControllerClient(site.controller.address)
    site.controller.close()
    with pytest.raises(BuildError, match="controller is gone"):
        worker.wait_until_image_is_built("parisc")
