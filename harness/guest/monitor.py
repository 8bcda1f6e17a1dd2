"""QEMU's monitor: commands with deadlines, and a record of all events in order."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from typing import Any, TypeVar

from qemu.qmp import ExecuteError, QMPClient, QMPError, Runstate

from harness.core.deadline import Deadline
from harness.core.errors import DeadlineExceeded, GuestError, GuestLost, HostDeadlineExceeded

T = TypeVar("T")
# Any JSON value; QEMU's qapi/*.json describes the values of each command.
Json = Any
Arguments = Mapping[str, Json]

# A monitor command waits only for QEMU's main loop, but a host that compiles on every core delays it by seconds.
_COMMAND_SECONDS = 30.0

# After these events a guest never continues: it has no watchdog, and -no-shutdown keeps it stopped.
_LAST_EVENTS = ("SHUTDOWN", "GUEST_PANICKED")

# The limit of events that are kept. Each takes 1.2 KiB of memory.
_MOST_EVENTS = 200_000
# The library also logs the errors that it raises.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class MonitorEvent:
    """One QMP event; `monotonic_time` is on the monotonic clock, in seconds."""

    name: str
    data: Mapping[str, Json]
    monotonic_time: float = field(default_factory=time.monotonic)


_LOOP_TURN = threading.Lock()


def _loop() -> asyncio.AbstractEventLoop:
    """Return the event loop of all monitors. The lock prevents a second one, whose monitors would never answer."""
    with _LOOP_TURN:
        return _the_loop()


@functools.cache
def _the_loop() -> asyncio.AbstractEventLoop:
    """Start the event loop in a thread that ends with the process."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="monitors", daemon=True).start()
    return loop


class Monitor:
    """One QEMU's monitor, usable from any thread."""

    def __init__(self, name: str, connection: socket.socket, deadline: Deadline) -> None:
        """Negotiate on a connected socket. Raises GuestLost when QEMU does not hold the other end."""
        self._name = name
        self._news = threading.Condition()
        self._events: list[MonitorEvent] = []
        self._gone = False
        self._when_over: Callable[[str], None] | None = None
        self._over = ""
        self._await(self._open(connection), "the monitor's greeting", deadline)

    def execute(self, command: str, *, deadline: Deadline | None = None, **arguments: Json) -> Json:
        """Run one QMP command and return its result. Underscores in argument names become hyphens.

        Raises GuestError when QEMU refuses the command, GuestLost when QEMU has ended, HostDeadlineExceeded.
        """
        return self.execute_all([(command, arguments)], deadline=deadline)[0]

    def execute_all(self, commands: Sequence[tuple[str, Arguments]], *, deadline: Deadline | None = None) -> list[Json]:
        """Run commands in order and return their results; each is sent before the results of the others arrive."""
        deadline = deadline or Deadline.after(_COMMAND_SECONDS)
        return self._await(self._run_all(commands), f"monitor command {commands[0][0] if commands else ''}", deadline)

    def hmp(self, line: str) -> str:
        """Run a command line of the human monitor and return its output."""
        return str(self.execute("human-monitor-command", command_line=line))

    def pass_descriptor(self, descriptor: int, name: str) -> None:
        """Pass an open file to QEMU, whose commands can then use it as `fd:NAME`."""
        lending = self._lend(descriptor, "getfd", {"fdname": name})
        self._await(lending, "a file handed over", Deadline.after(_COMMAND_SECONDS))

    def add_to_fd_set(self, descriptor: int, number: int) -> None:
        """Pass an open file to QEMU, whose commands can then use it as the path `/dev/fdset/NUMBER`."""
        lending = self._lend(descriptor, "add-fd", {"fdset-id": number})
        self._await(lending, "a file handed over", Deadline.after(_COMMAND_SECONDS))

    def events(self) -> list[MonitorEvent]:
        """Return every event so far."""
        with self._news:
            return list(self._events)

    def wait_event(self, *names: str, deadline: Deadline, since: int = 0) -> MonitorEvent:
        """Wait for an event with one of these names and return it; the first `since` events are ignored.

        A name with a status, such as `MIGRATION completed`, matches only an event with that status.

        Raises GuestLost when QEMU ends first, DeadlineExceeded.
        """
        with self._news:
            while True:
                for event in self._events[since:]:
                    if event.name in names or f"{event.name} {event.data.get('status')}" in names:
                        return event
                if self._gone:
                    raise GuestLost(f"QEMU ended before {' or '.join(names)}", where=self._name)
                if not self._news.wait(deadline.remaining()):
                    raise DeadlineExceeded(f"no {' or '.join(names)} from QEMU in time", where=self._name)

    def call_when_guest_stops(self, callback: Callable[[str], None]) -> None:
        """Call `callback` once, with the reason, when the guest has stopped for good or QEMU has ended.

        The callback runs on the monitors' own thread and must not wait for anything.
        """
        with self._news:
            self._when_over = callback
            over = self._over
        if over:
            callback(over)

    @property
    def gone(self) -> bool:
        """True when QEMU has closed the connection."""
        return self._gone

    @property
    def is_guest_paused(self) -> bool:
        """True while QEMU keeps the guest stopped."""
        changes = [event.name for event in self.events() if event.name in ("STOP", "RESUME")]
        return changes[-1:] == ["STOP"]

    def close(self) -> None:
        """Close the connection; QEMU keeps running."""
        future = asyncio.run_coroutine_threadsafe(self._hang_up(), _loop())
        with contextlib.suppress(FutureTimeout):
            future.result(_COMMAND_SECONDS)

    def _await(self, work: Coroutine[Any, Any, T], what: str, deadline: Deadline) -> T:
        """Run a coroutine on the shared loop; convert its exceptions into the harness's own."""
        future = asyncio.run_coroutine_threadsafe(work, _loop())
        try:
            return future.result(deadline.remaining())
        except FutureTimeout:
            future.cancel()
            raise HostDeadlineExceeded(f"{what} did not come in time", where=self._name) from None
        except ExecuteError as refusal:
            raise GuestError(f"QEMU refuses {what}: {refusal}", where=self._name) from None
        except (QMPError, EOFError, OSError) as loss:
            raise GuestLost(f"QEMU is gone: {what}: {loss}", where=self._name) from None

    async def _open(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._client = QMPClient(self._name)
        self._leaving = asyncio.Lock()
        await self._client.connect(connection)
        self._listener = asyncio.create_task(self._listen())
        self._watcher = asyncio.create_task(self._watch())

    async def _run_all(self, commands: Sequence[tuple[str, Arguments]]) -> list[Json]:
        sent = [
            self._client.execute(command, {key.replace("_", "-"): value for key, value in arguments.items()})
            for command, arguments in commands
        ]
        return list(await asyncio.gather(*sent))

    async def _lend(self, descriptor: int, command: str, arguments: dict[str, object]) -> None:
        self._client.send_fd_scm(descriptor)
        await self._client.execute(command, arguments)

    async def _listen(self) -> None:
        async for event in self._client.events:
            details = event.get("data")
            news = MonitorEvent(str(event["event"]), details if isinstance(details, dict) else {})
            with self._news:
                self._events.append(news)
                self._news.notify_all()
            if len(self._events) > _MOST_EVENTS:
                self._end(f"QEMU sent more than {_MOST_EVENTS} events")
                self._flood = asyncio.create_task(self._hang_up())
                return
            if news.name in _LAST_EVENTS:
                self._end(f"the guest stopped: {news.name} {news.data.get('reason', '')}".rstrip())
            elif news.name == "STOP" and await self._broken():
                self._end("the guest stopped: internal error")

    async def _broken(self) -> bool:
        """Return True when the accelerator stopped the guest, for which KVM has no event of its own."""
        with contextlib.suppress(QMPError):
            status = await self._client.execute("query-status")
            return isinstance(status, dict) and status.get("status") == "internal-error"
        return False

    def _end(self, reason: str) -> None:
        """Record the reason of the guest's end and run the callback, on the first call only."""
        with self._news:
            callback, first = self._when_over, not self._over
            self._over = self._over or reason
        if callback and first:
            callback(reason)

    async def _watch(self) -> None:
        """Wait until QEMU's connection ends for any reason, then clean up."""
        while self._client.runstate is Runstate.RUNNING:
            await self._client.runstate_changed()
        await self._hang_up()

    async def _hang_up(self) -> None:
        """Clean up once, whichever side closed the connection first; errors of the disconnect are ignored."""
        async with self._leaving:
            if self._gone:
                return
            # It raises whatever ended the connection, which can be any error: ValueError for a line that is too long,
            # RecursionError for one that is nested too deeply. The connection is gone in every case.
            with contextlib.suppress(Exception):
                await self._client.disconnect()
            self._listener.cancel()
            with self._news:
                self._gone = True
                self._news.notify_all()
        self._end("QEMU ended")
