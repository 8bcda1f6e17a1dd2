"""Runs cell shards in child processes of this host."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness.core import paths, process
from harness.core.errors import HostError
from harness.matrix.cell_shards.engine import ShardEnd, ShardNeeds, Update
from harness.matrix.cell_shards.shard_files import OUTPUT
from harness.matrix.cell_shards.shard_order import Message, ShardOrder

_CHUNK = 1 << 16
_ORDER = "order.json"
# How long a process may take to stop its guests when a run ends early.
_GRACE_SECONDS = 10.0


class LocalProcesses:
    """At most `count` processes at once, in lanes named `w1`, `w2` and so on."""

    def __init__(self, count: int) -> None:
        self._lanes = [f"w{number}" for number in range(1, count + 1)]
        self._running: dict[str, _Running] = {}

    def lane_for(self, _needs: ShardNeeds) -> str | None:
        """Return the name of the first free lane, None if there is none."""
        used = {each.order.lane for each in self._running.values()}
        return next((lane for lane in self._lanes if lane not in used), None)

    def refusal(self, _needs: ShardNeeds) -> str:
        """Return no refusal: this host runs every process, as it does without processes of shards."""
        return ""

    def start(self, order: ShardOrder) -> None:
        """Start the process of an order. It dies with this process. Raises HostError."""
        directory = Path(order.directory)
        try:
            (directory / _ORDER).write_text(order.model_dump_json())
            with (directory / _ORDER).open("rb") as given, (directory / OUTPUT).open("ab") as output:
                child = process.spawn(
                    [sys.executable, "-P", "-m", "harness", "shard"],
                    env=_module_path(),
                    stdin=given,
                    stdout=subprocess.PIPE,
                    stderr=output,
                )
        except OSError as error:
            mend = "make room and run again"
            raise HostError(f"no process can start: {error.strerror}", where=str(directory), mend=mend) from None
        self._running[order.name] = _Running(order, child, os.pidfd_open(child.pid))

    def updates(self, seconds: float) -> Iterator[Update]:
        """Yield what the processes sent, by the name of the shard, after waiting at most `seconds` for the first."""
        ready = select.poll()
        of_descriptor = {}
        for each in self._running.values():
            for descriptor in each.descriptors:
                ready.register(descriptor, select.POLLIN)
                of_descriptor[descriptor] = each
        found = {of_descriptor[descriptor].order.name for descriptor, _ in ready.poll(seconds * 1000)}
        for name in found:
            each = self._running[name]
            # Before the output is read: all that a process that has ended by now has written is there to be read.
            ended = each.has_ended()
            for message in each.read(to_the_end=ended):
                yield name, message
            if ended:
                del self._running[name]
                yield name, ShardEnd(each.close())

    def stop(self) -> list[str]:
        """End all processes, with their guests; return the names of their shards."""
        stopped = list(self._running)
        if stopped:
            with ThreadPoolExecutor(len(stopped)) as pool:
                list(pool.map(_Running.stop, self._running.values()))
        self._running.clear()
        return stopped


class _Running:
    def __init__(self, order: ShardOrder, child: subprocess.Popen[bytes], descriptor: int) -> None:
        self.order = order
        self._child = child
        self._end = descriptor
        self._rest = b""
        assert child.stdout is not None
        self._output = child.stdout
        self._closed = False
        os.set_blocking(self._output.fileno(), False)

    @property
    def descriptors(self) -> list[int]:
        return [self._end] if self._closed else [self._end, self._output.fileno()]

    def has_ended(self) -> bool:
        return self._child.poll() is not None

    def read(self, *, to_the_end: bool) -> Iterator[Message]:
        """Yield the messages that have come; only those of one chunk, unless the process has ended."""
        while not self._closed:
            try:
                content = os.read(self._output.fileno(), _CHUNK)
            except BlockingIOError:
                return
            self._closed = not content
            *lines, self._rest = (self._rest + content).split(b"\n")
            yield from map(json.loads, lines)
            if not to_the_end:
                return

    def close(self) -> str:
        """Close the descriptors of an ended process; describe how it ended."""
        os.close(self._end)
        self._output.close()
        status = self._child.returncode
        if status < 0:
            with contextlib.suppress(ValueError):
                return f"was killed by {signal.Signals(-status).name}"
        return f"ended with status {status}" if status else ""

    def stop(self) -> None:
        process.stop(self._child, _GRACE_SECONDS)
        os.close(self._end)
        self._output.close()


def _module_path() -> dict[str, str]:
    """Return what makes the harness importable; an installed one is in the environment's packages."""
    if paths.INSTALLED:
        return {}
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(paths.PROJECT), os.environ.get("PYTHONPATH", ""))))}
