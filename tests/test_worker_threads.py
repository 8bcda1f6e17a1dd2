"""A run that is interrupted while its main thread waits for worker threads ends soon, with its children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.core import paths
from harness.core.errors import HostError
from harness.core.worker_threads import WorkerThreads

# A sweep whose guests never end: each is a child, as QEMU is, and its loss leads to the next batch on the next guest.
SWEEP = """
import signal
import sys
from contextlib import contextmanager

from harness.core import process
from harness.core.errors import GuestLost
from harness.core.events import Bus
from harness.landing.sweep import sweep_past_deadly_sites as sweeps


class Guest:
    def __init__(self):
        self.child = process.spawn(["sleep", "600"])


class StandIn:
    def __init__(self, guest, *_, **__):
        self.guest = guest

    load = unload = read_flight_recorder = lambda self: []


class Layout(StandIn):
    def __init__(self, guest, _):
        self.guest = guest


class Sweep(StandIn):
    def __init__(self, layout, *_, **__):
        self.guest, self.wrong = layout.guest, {}

    def sweep_as_one_batch(self, batch):
        print(self.guest.child.pid, flush=True)
        # With a timeout: without one, wait() holds the lock that process.stop() needs.
        self.guest.child.wait(600)
        raise GuestLost("QEMU ended")


@contextmanager
def fresh():
    yield Guest()


sweeps.Target = sweeps.SweepModule = StandIn
sweeps.Layout, sweeps.Sweep = Layout, Sweep
# A process that a shell starts in the background ignores SIGINT, and so do its children.
for sign in (signal.SIGTERM, signal.SIGINT):
    signal.signal(sign, signal.default_int_handler)
with Bus().step("a-vm", "armed") as step:
    sweeps.FreshGuests(fresh, step, workers=2).sweep_batches([[number] for number in range(1000)])
"""
SOON = 60.0


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_sweep_of_fresh_guests_ends_with_its_guests(tmp_path: Path, sign: signal.Signals) -> None:
    script = tmp_path / "sweep.py"
    script.write_text(SWEEP)
    environment = {**os.environ, "PYTHONPATH": str(paths.PROJECT)}
    words = [sys.executable, str(script)]
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout
        guests = [int(run.stdout.readline()) for _ in range(2)]
        began = time.monotonic()
        run.send_signal(sign)
        try:
            _, errors = run.communicate(timeout=SOON)
        finally:
            run.kill()
    assert time.monotonic() - began < SOON
    assert "KeyboardInterrupt" in errors
    assert not [guest for guest in guests if Path(f"/proc/{guest}").exists()]


def test_an_error_of_a_worker_stops_no_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.core.process.stop_all", lambda: pytest.fail("the children were stopped"))

    def work() -> None:
        raise HostError("no room")

    with pytest.raises(HostError, match="no room"), WorkerThreads(1) as pool:
        pool.submit(work).result()
