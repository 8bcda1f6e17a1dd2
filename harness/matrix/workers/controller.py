"""A run in several processes: the controller alone builds and shows the board; its workers ask it and tell it.

They speak through a socket in a directory of this user alone, one JSON object a line: `{"event": ...}`,
`{"rows": [...], "compared": [...], "asked": {...}}`, and `{"image": NAME}`, which is answered by `{"error": TEXT}`,
empty when the image is in the store.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import socketserver
import tempfile
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.core.errors import BuildError, PinpointError
from harness.core.events import Bus, Event, Phase
from harness.matrix.cells.selection import CellId

Begin = Callable[[Sequence[str], Collection[str]], None]


class Controller:
    """In the controller: hears the workers' news and has images built for them."""

    def __init__(self, bus: Bus, begin: Begin, build: Callable[[str], object]) -> None:
        self._bus = bus
        self._begin = begin
        self._build = build
        self._began = threading.Lock()
        # The cells asked for by pytest's names of them, once a worker has collected.
        self.asked: dict[str, CellId] = {}
        self._directory = tempfile.mkdtemp(prefix="pinpoint-")
        self.address = str(Path(self._directory) / "foreman")
        self._server = _Server(self.address, _Line)
        self._server.foreman = self
        threading.Thread(target=self._server.serve_forever, name="foreman", daemon=True).start()

    def close(self) -> None:
        """Hear nobody any more."""
        self._server.shutdown()
        self._server.server_close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def answer(self, said: dict[str, Any]) -> dict[str, str] | None:
        """Do what one line says; what to answer, None for nothing."""
        match said:
            case {"event": fields}:
                self._bus.publish(Event(**{**fields, "phase": Phase(fields["phase"])}))
            case {"rows": rows, "compared": compared, "asked": asked}:
                # Every worker collects the same cells; the first to say so is believed.
                if self._began.acquire(blocking=False):
                    self.asked.update({name: CellId(**cell) for name, cell in asked.items()})
                    self._begin(rows, compared)
            case {"image": name}:
                return {"error": self._obtain(name)}
        return None

    def _obtain(self, name: str) -> str:
        """Wait until an image is in the store; why it is not, or nothing."""
        try:
            self._build(name)
        except PinpointError as error:
            return str(error)
        return ""


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    foreman: Controller


class _Line(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, _Server)
        for line in self.rfile:
            answer = self.server.foreman.answer(json.loads(line))
            if answer is not None:
                self.wfile.write(f"{json.dumps(answer)}\n".encode())


class ControllerClient:
    """In a worker: the way to the foreman."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._connection = self._connect()
        self._turn = threading.Lock()

    def hear(self, event: Event) -> None:
        """Tell an event of this process: a listener for its bus. Accounts are told all at once, when it ends."""
        if event.phase is Phase.SPENT:
            return
        self._say({"event": {**asdict(event), "phase": event.phase.value}})

    def tell_rows(self, rows: Sequence[str], compared: Collection[str], asked: Mapping[str, CellId]) -> None:
        """Tell which rows have cells to run, which of them need their sibling's image, and all cells asked for."""
        cells = {name: asdict(cell) for name, cell in asked.items()}
        self._say({"rows": list(rows), "compared": list(compared), "asked": cells})

    def await_image(self, name: str) -> None:
        """Return when the image is in the store. Raises BuildError with what its build raised."""
        try:
            with self._connect() as connection, connection.makefile("rwb") as lines:
                lines.write(f"{json.dumps({'image': name})}\n".encode())
                lines.flush()
                answer = lines.readline()
        except OSError:
            answer = b""
        if not answer:
            raise BuildError("the run's controller is gone", where=name)
        if error := json.loads(answer)["error"]:
            raise BuildError(error)

    def _say(self, what: dict[str, Any]) -> None:
        # Without its controller a worker is about to be stopped.
        with self._turn, contextlib.suppress(OSError):
            self._connection.sendall(f"{json.dumps(what)}\n".encode())

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._address)
        return connection
