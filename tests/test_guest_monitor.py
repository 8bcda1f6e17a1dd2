"""The QMP monitor works with a QMP server of these tests at the other end of its socket."""

from __future__ import annotations

import contextlib
import functools
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from harness.core.deadline import Deadline
from harness.core.errors import DeadlineExceeded, GuestError, GuestLost
from harness.guest import monitor as module
from harness.guest.monitor import Monitor

SOON = 60.0
GREETING = {"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}


class Qemu:
    """Returns the arguments of every command; does not answer `hang`, and refuses `refuse`."""

    def __init__(self) -> None:
        self.ours, self._theirs = socket.socketpair()
        self._writing = threading.Lock()
        threading.Thread(target=self._serve, daemon=True).start()

    def send(self, message: dict[str, Any]) -> None:
        with self._writing, contextlib.suppress(BrokenPipeError):
            self._theirs.sendall(json.dumps(message).encode() + b"\r\n")

    def event(self, name: str, **data: object) -> None:
        self.send({"event": name, "data": data, "timestamp": {"seconds": 1, "microseconds": 0}})

    def die(self) -> None:
        self._theirs.shutdown(socket.SHUT_RDWR)

    def _messages(self) -> Iterator[dict[str, Any]]:
        """Yield JSON objects one after the other; the client sends nothing between them."""
        text = ""
        while chunk := self._theirs.recv(1 << 16):
            text += chunk.decode()
            with contextlib.suppress(json.JSONDecodeError):
                while text:
                    message, end = json.JSONDecoder().raw_decode(text)
                    text = text[end:].lstrip()
                    yield message

    def _serve(self) -> None:
        # A client that has closed its side with something unread resets the connection.
        with contextlib.suppress(ConnectionResetError):
            self.send(GREETING)
            for command in self._messages():
                known = {"id": command["id"]} if "id" in command else {}
                if command["execute"] == "refuse":
                    self.send({"error": {"class": "GenericError", "desc": "no such thing"}} | known)
                elif command["execute"] != "hang":
                    self.send({"return": command.get("arguments", {})} | known)


def test_monitors_of_guests_that_begin_at_once_share_one_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def slowly() -> object:
        loop = SimpleNamespace(run_forever=lambda: None)
        together.wait(0.2)
        made.append(loop)
        return loop

    together = threading.Event()
    monkeypatch.setattr(module, "_the_loop", functools.cache(module._the_loop.__wrapped__))
    monkeypatch.setattr(module.asyncio, "new_event_loop", slowly)
    with ThreadPoolExecutor(4) as pool:
        loops = list(pool.map(lambda _: module._loop(), range(4)))
    assert loops == made * 4


@pytest.fixture
def qemu() -> Iterator[Qemu]:
    made = Qemu()
    yield made
    made.die()


@pytest.fixture
def monitor(qemu: Qemu) -> Iterator[Monitor]:
    made = Monitor("a-vm", qemu.ours, Deadline.after(SOON))
    yield made
    made.close()


def test_arguments_are_spelled_as_qmp_does(monitor: Monitor) -> None:
    assert monitor.execute("memsave", val=1, cpu_index=0) == {"val": 1, "cpu-index": 0}


def test_commands_sent_together_are_answered_in_order(monitor: Monitor) -> None:
    commands = [("echo", {"number": number}) for number in range(200)]
    assert [answer["number"] for answer in monitor.execute_all(commands)] == list(range(200))


def test_refusal_is_an_error_with_qemus_words(monitor: Monitor) -> None:
    with pytest.raises(GuestError, match="no such thing"):
        monitor.execute("refuse")
    assert monitor.execute("echo", still="works") == {"still": "works"}


def test_silence_ends_at_the_deadline(monitor: Monitor) -> None:
    with pytest.raises(DeadlineExceeded):
        monitor.execute("hang", deadline=Deadline.after(0.2))


def test_events_are_kept_in_order(qemu: Qemu, monitor: Monitor) -> None:
    for name in ("RESUME", "STOP", "RESUME"):
        qemu.event(name)
    qemu.event("WATCHDOG", action="none")
    last = monitor.wait_event("WATCHDOG", deadline=Deadline.after(SOON))
    assert last.data == {"action": "none"}
    assert [event.name for event in monitor.events()] == ["RESUME", "STOP", "RESUME", "WATCHDOG"]
    assert [event.monotonic_time for event in monitor.events()] == sorted(
        event.monotonic_time for event in monitor.events()
    )


def test_only_later_events_are_waited_for(qemu: Qemu, monitor: Monitor) -> None:
    qemu.event("STOP", number=1)
    monitor.wait_event("STOP", deadline=Deadline.after(SOON))
    threading.Timer(0.1, qemu.event, ("STOP",), {"number": 2}).start()
    assert monitor.wait_event("STOP", deadline=Deadline.after(SOON), since=1).data == {"number": 2}


def test_dead_qemu_ends_every_wait(qemu: Qemu, monitor: Monitor) -> None:
    threading.Timer(0.1, qemu.die).start()
    with pytest.raises(GuestLost, match="ended before SHUTDOWN"):
        monitor.wait_event("SHUTDOWN", deadline=Deadline.after(60))
    assert monitor.gone
    with pytest.raises(GuestLost):
        monitor.execute("query-status")


def test_dead_qemu_ends_a_command(qemu: Qemu, monitor: Monitor) -> None:
    threading.Timer(0.1, qemu.die).start()
    with pytest.raises(GuestLost):
        monitor.execute("hang", deadline=Deadline.after(60))


def test_the_end_is_reported_once_with_its_reason(qemu: Qemu, monitor: Monitor) -> None:
    reported: list[str] = []
    over = threading.Event()
    monitor.call_when_guest_stops(lambda reason: (reported.append(reason), over.set())[0])
    qemu.event("SHUTDOWN", guest=True, reason="guest-reset")
    assert over.wait(SOON)
    qemu.die()
    with pytest.raises(GuestLost):
        monitor.wait_event("NEVER", deadline=Deadline.after(SOON))
    assert reported == ["the guest stopped: SHUTDOWN guest-reset"]


def test_an_earlier_end_is_reported_too(qemu: Qemu, monitor: Monitor) -> None:
    qemu.event("SHUTDOWN", guest=True, reason="guest-shutdown")
    qemu.event("STOP")
    monitor.wait_event("STOP", deadline=Deadline.after(SOON))
    reported: list[str] = []
    monitor.call_when_guest_stops(reported.append)
    assert reported == ["the guest stopped: SHUTDOWN guest-shutdown"]


@pytest.mark.parametrize(
    "sent",
    [b"[" * 100_000 + b"\r\n", b"x" * (20 << 20), b"\xff\xfe\r\n", b"[1]\r\n"],
    ids=["nested", "no end of line", "no UTF-8", "a list"],
)
def test_a_monitor_that_sends_nonsense_is_gone(qemu: Qemu, monitor: Monitor, sent: bytes) -> None:
    over = threading.Event()
    monitor.call_when_guest_stops(lambda _: over.set())

    def talk() -> None:
        with contextlib.suppress(OSError):
            qemu._theirs.sendall(sent)

    threading.Thread(target=talk, daemon=True).start()
    assert over.wait(20)
    with pytest.raises(GuestLost):
        monitor.wait_event("NEVER", deadline=Deadline.after(20))
    with pytest.raises(GuestLost):
        monitor.execute("query-status", deadline=Deadline.after(20))


def test_events_without_end_take_no_memory_without_end(
    qemu: Qemu, monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_EVENTS", 100)
    over: list[str] = []
    monitor.call_when_guest_stops(over.append)
    for _ in range(300):
        qemu.event("RTC_CHANGE")
    with pytest.raises(GuestLost):
        monitor.wait_event("NEVER", deadline=Deadline.after(20))
    assert over == ["QEMU sent more than 100 events"]
    assert len(monitor.events()) == 101


def test_nobody_at_the_other_end() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with pytest.raises(GuestLost):
        Monitor("a-vm", ours, Deadline.after(SOON))
