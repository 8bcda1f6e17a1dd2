"""The socket between the controller, which builds images and shows the board, and its workers.

The socket is in a directory that only this user can enter. Each message is one JSON object on a line:
`{"event": ...}`, `{"rows": [...], "compared": [...], "asked": {...}, "shard": {...}}`, or `{"image": NAME}`. The reply
to the last is `{"error": TEXT}`; TEXT is empty when the image is in the store.
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
from harness.core.events import Bus, Event, EventKind
from harness.matrix.cells.selection import CellId
from harness.report.shard_file import ShardRecord

Begin = Callable[[Sequence[str], Collection[str]], None]


class Controller:
    """The server in the controller. It publishes the workers' events on its bus and builds images for the workers."""

    def __init__(self, bus: Bus, begin: Begin, build: Callable[[str], object]) -> None:
        self._bus = bus
        self._begin = begin
        self._build = build
        self._began = threading.Lock()
        # The selected cells, by pytest's node id; filled when the first worker has collected.
        self.selected_cells: dict[str, CellId] = {}
        self.shard_record: ShardRecord | None = None
        self._directory = tempfile.mkdtemp(prefix="pinpoint-")
        self.address = str(Path(self._directory) / "controller")
        self._server = _Server(self.address, _Line)
        self._server.controller = self
        threading.Thread(target=self._server.serve_forever, name="controller", daemon=True).start()

    def close(self) -> None:
        """Close the socket."""
        self._server.shutdown()
        self._server.server_close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def answer(self, message: dict[str, Any]) -> dict[str, str] | None:
        """Handle one message; return the reply, or None if the message has none."""
        match message:
            case {"event": fields}:
                self._bus.publish(Event(**{**fields, "kind": EventKind(fields["kind"])}))
            case {"rows": rows, "compared": compared, "asked": asked, "shard": shard}:
                # Every worker collects the same cells, so the first message counts.
                if self._began.acquire(blocking=False):
                    self.selected_cells.update({name: CellId(**cell) for name, cell in asked.items()})
                    self.shard_record = ShardRecord.model_validate(shard) if shard else None
                    self._begin(rows, compared)
            case {"image": name}:
                return {"error": self._obtain(name)}
        return None

    def _obtain(self, name: str) -> str:
        """Build an image; return the error, empty when the image is in the store."""
        try:
            self._build(name)
        except PinpointError as error:
            return str(error)
        return ""


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    controller: Controller


class _Line(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, _Server)
        for line in self.rfile:
            answer = self.server.controller.answer(json.loads(line))
            if answer is not None:
                self.wfile.write(f"{json.dumps(answer)}\n".encode())


class ControllerClient:
    """The connection to the controller in a worker."""

    def __init__(self, address: str, worker: str = "") -> None:
        """`worker` is the name that events carry to the controller."""
        self._address = address
        self._worker = worker
        self._connection = self._connect()
        self._turn = threading.Lock()

    def send_event(self, event: Event) -> None:
        """Send an event of this process; the bus calls this as a listener.

        Time accounts are sent once, when the worker ends.
        """
        if event.kind is EventKind.SPENT:
            return
        self._send({"event": {**asdict(event), "kind": event.kind.value, "worker": self._worker}})

    def send_rows_and_selected_cells(
        self,
        rows: Sequence[str],
        compared: Collection[str],
        asked: Mapping[str, CellId],
        shard: ShardRecord | None = None,
    ) -> None:
        """Send the rows that have cells to run, those that need their sibling's image, and all selected cells.

        With --shard, send also the record of all shards.
        """
        cells = {name: asdict(cell) for name, cell in asked.items()}
        record = shard.model_dump(mode="json", by_alias=True) if shard else None
        self._send({"rows": list(rows), "compared": list(compared), "asked": cells, "shard": record})

    def wait_until_image_is_built(self, name: str) -> None:
        """Wait until the image is in the store. Raises BuildError with the error of its build."""
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

    def _send(self, message: dict[str, Any]) -> None:
        # An OSError means that the controller is gone: this worker is about to be stopped.
        with self._turn, contextlib.suppress(OSError):
            self._connection.sendall(f"{json.dumps(message)}\n".encode())

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._address)
        return connection
