"""The engine that runs the processes of shards on the hosts of a Dask cluster; it runs in the controller.

Dask carries orders, messages and images. What runs where is decided here (`host_placement.py`): each task is bound to
one worker, and Dask never runs it elsewhere.
"""

from __future__ import annotations

import base64
import json
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core import paths
from harness.core.errors import HostError, PinpointError
from harness.matrix.cell_shards.engine import ShardEnd, ShardNeeds, Update
from harness.matrix.cell_shards.shard_order import Message, ShardOrder
from harness.matrix.hosts import work_on_host
from harness.matrix.hosts.build_tasks import BuildTurns
from harness.matrix.hosts.host_placement import Host, Placement
from harness.matrix.hosts.image_sender import ImageSender
from harness.matrix.hosts.remote_builds import RemoteBuilds
from harness.matrix.hosts.remote_freezes import RemoteFreezes

if TYPE_CHECKING:
    from harness.matrix.controller_run import ControllerRun

CONNECT_SECONDS = 30.0
_DESCRIBE_SECONDS = 180.0
_LOOK_SECONDS = 1.0
_RENEW_SECONDS = 5.0
# How long processes may take to end when the run ends early.
_STOP_SECONDS = 30.0
# A worker keeps threads free for images that arrive.
_SPARE_THREADS = 1


class Cluster:
    """Runs processes on the hosts that the cluster has when the run begins."""

    def __init__(
        self,
        client: Any,  # noqa: ANN401 - a class of Dask
        controller: ControllerRun,
        close_hosts: Callable[[], None] = lambda: None,
    ) -> None:
        """`close_hosts` ends what was started for this run alone. Raises HostError for hosts that cannot be used."""
        from distributed import Queue, Variable

        self._client = client
        self._close_hosts = close_hosts
        self._bus = controller.bus
        self._sender = ImageSender(controller, controller.loader)
        self._topic = f"pinpoint-{secrets.token_hex(6)}"
        self._messages = Queue(self._topic, client=client)
        self._lease = Variable(f"{self._topic}-lease", client=client)
        self._updates: queue.SimpleQueue[Update] = queue.SimpleQueue()
        self._orders: dict[str, tuple[ShardOrder, Host, Any]] = {}
        self._needs: dict[str, ShardNeeds] = {}
        self._closing = threading.Event()
        self._placement = Placement(self._hosts())
        self._turns, past = BuildTurns(self._placement), controller.build_durations.past
        builds = RemoteBuilds(self._placement, self._turns, self._run_on, controller.bus, past)
        builds.demand_builders(controller.recipes.values())
        freezes = RemoteFreezes(self._placement, self._turns, self._run_on, self._sender, controller, past)
        controller.fleet.guests_are_elsewhere = True
        controller.fleet.obtain_elsewhere, controller.fleet.freeze_elsewhere = builds.obtain, freezes.freeze
        self._sending = ThreadPoolExecutor(max(1, len(self._placement.hosts)), thread_name_prefix="send")
        self._renewing = threading.Thread(target=self._renew_lease, name="lease", daemon=True)
        self._ending = threading.Event()
        for thread in (
            self._renewing,
            threading.Thread(target=self._receive, name="receive", daemon=True),
            threading.Thread(target=self._watch_hosts, name="hosts", daemon=True),
        ):
            thread.start()

    def lane_for(self, needs: ShardNeeds) -> str | None:
        """Return a lane on the best host with room, None if there is none now; the next `start` uses it."""
        host = self._placement.choose(needs)
        if host is None:
            return None
        lane = self._placement.take(host, needs)
        self._needs[lane] = needs
        return lane

    def refusal(self, needs: ShardNeeds) -> str:
        """Return why no host can ever run this; empty if one can."""
        return self._placement.refusal(needs)

    def start(self, order: ShardOrder) -> None:
        """Start the process of an order on the host of its lane; images that it lacks are sent first."""
        host = next(host for host in self._placement.hosts.values() if order.lane in host.running)
        self._orders[order.name] = order, host, None
        self._sending.submit(self._send, order, host)

    def updates(self, seconds: float) -> Iterator[Update]:
        """Yield what the processes sent. Raises HostError when the scheduler is gone."""
        if self._client.status != "running":
            raise HostError("the scheduler of the cluster is gone", mend="start it again, and the run")
        with suppress(queue.Empty):
            name, update = self._updates.get(timeout=seconds)
            while True:
                if name in self._orders:
                    if isinstance(update, ShardEnd):
                        order, _, _ = self._orders.pop(name)
                        self._placement.release(order.lane)
                        yield name, update
                    elif "file" in update:
                        self._append(self._orders[name][0], update)
                    else:
                        yield name, update
                name, update = self._updates.get_nowait()

    def stop(self) -> list[str]:
        """End all processes, with their guests; return the names of their shards."""
        stopped = list(self._orders)
        self._turns.close()
        self._ending.set()
        self._renewing.join(CONNECT_SECONDS)
        with suppress(Exception):
            self._lease.set(work_on_host.STOP)
        end = time.monotonic() + _STOP_SECONDS
        while self._orders and time.monotonic() < end and self._client.status == "running":
            for _ in self.updates(_LOOK_SECONDS):
                pass
        self._closing.set()
        self._sending.shutdown(wait=False, cancel_futures=True)
        with suppress(Exception):
            self._client.close(timeout=CONNECT_SECONDS)
        self._close_hosts()
        self._sender.close()
        return stopped

    def _hosts(self) -> Iterator[Host]:
        """Yield the hosts, after checking that they have the controller's code. Raises HostError."""
        workers = self._workers()
        asked = {
            address: self._submit(address, f"describe-{address}", work_on_host.describe_host) for address in workers
        }
        own = work_on_host.identity_of_code()
        for address, future in asked.items():
            name = str(workers[address]["name"])
            found = _described(future, name)
            if found["code"] != own:
                mend = "put the same version there"
                raise HostError("has another version of Pinpoint", where=f"host {name}", mend=mend)
            lanes = max(0, workers[address]["nthreads"] - _SPARE_THREADS)
            offered = workers[address].get("resources", {})
            cores, gib = offered.get("core", found["cores"]), offered.get("gib", found["gib"])
            yield Host(address, name, cores, gib, frozenset(found["abilities"]), lanes, found["lacks"])
        if not asked:
            raise HostError("the cluster has no worker", mend="start `pinpoint worker` on each host: docs/hosts.md")

    def _workers(self) -> dict[str, Any]:
        """Return the workers by address, as the scheduler has them now.

        `Client.scheduler_info()` is no source: it returns what the client stored last, and a refresh of the client in
        between stores a list without workers (`Client._update_scheduler_info()`, distributed 2026).
        """
        found: dict[str, Any] = self._client.sync(self._client.scheduler.identity, n_workers=-1)["workers"]
        return found

    def _submit(self, address: str, key: str, work: Any, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - of Dask
        """Start a task on one worker, and on no other."""
        unique = f"{self._topic}-{key}-{secrets.token_hex(4)}"
        bound = {"workers": [address], "allow_other_workers": False, "pure": False, "retries": 0, "key": unique}
        return self._client.submit(work, *arguments, **named, **bound)

    def _run_on(self, host: Host, key: str, work: Any, *given: Any, **named: Any) -> Any:  # noqa: ANN401 - as _submit()
        """Run a function on a host; return its result. Raises errors of Dask."""
        return self._submit(host.address, key, work, *given, **named).result()

    def _send(self, order: ShardOrder, host: Host) -> None:
        """Send what an order needs, and then the order."""
        from distributed import Queue

        on_host = partial(self._run_on, host)
        try:
            self._sender.send_own_files(on_host)
            for vm in order.images:
                if vm not in order.image_errors:
                    self._sender.send(vm, host.address, on_host, boots=vm == order.vm)
            Queue(f"{self._topic}-token-{order.name}", client=self._client).put("start")
            own = self._sender.own_with_images(vm for vm in order.images if vm not in order.image_errors)
            given = order.model_dump_json(), self._topic, str(paths.PROJECT), own
            future = self._submit(host.address, order.name, work_on_host.run_order, *given)
            if order.name in self._orders:
                self._orders[order.name] = order, host, future
        except Exception as error:
            # Of Dask, if the host is lost meanwhile: it has many kinds.
            text = str(error) if isinstance(error, PinpointError) else f"{type(error).__name__}: {error}"
            self._updates.put((order.name, ShardEnd(f"could not be started on host {host.name}: {text}")))

    def _receive(self) -> None:
        """Receive messages until the run ends."""
        while not self._closing.is_set():
            try:
                name, messages = json.loads(self._messages.get(timeout=_LOOK_SECONDS))
            except TimeoutError:
                continue
            except Exception:
                if self._client.status != "running":
                    return
                continue
            for message in messages:
                self._updates.put((name, ShardEnd(message["over"]) if "over" in message else message))

    def _watch_hosts(self) -> None:
        """End the processes of hosts that are gone, and of tasks that failed.

        The end goes through the same queue as the messages, so that all that came from there before counts.
        """
        ended: set[str] = set()
        while not self._closing.wait(_LOOK_SECONDS):
            with suppress(Exception):
                there = self._workers()
                for address in set(self._placement.hosts) - set(there):
                    self._lose(self._placement.hosts[address])
                for name, (_, host, future) in list(self._orders.items()):
                    how = "" if host.address in there else f"was on host {host.name}, which is gone"
                    if not how and future is not None and future.status in ("error", "cancelled", "lost"):
                        how = f"was lost on host {host.name}: {future.status}"
                    if how and name not in ended:
                        ended.add(name)
                        self._messages.put(json.dumps([name, [{"over": how}]]))

    def _lose(self, host: Host) -> None:
        """Place nothing more on a host that is gone, and print a line about it."""
        if host.most_lanes:
            host.most_lanes = 0
            with suppress(HostError), self._bus.step(host.name, "host"):
                raise HostError("is gone; what has not begun runs on other hosts")

    def _renew_lease(self) -> None:
        number = 0
        while not self._ending.is_set():
            with suppress(Exception):
                self._lease.set(number)
            number += 1
            self._ending.wait(_RENEW_SECONDS)

    def _append(self, order: ShardOrder, part: Message) -> None:
        """Write a part of a file into the shard's directory; a name that leads elsewhere is refused."""
        directory = Path(order.directory)
        path = directory / part["file"]
        if ".." in path.parts or not path.is_relative_to(directory):
            raise HostError("a host sent a file with a path outside of its directory", where=str(part["file"])[:100])
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(base64.b64decode(part["append"]))


def _described(future: Any, name: str) -> dict[str, Any]:  # noqa: ANN401 - a class of Dask
    try:
        found: dict[str, Any] = future.result(timeout=_DESCRIBE_SECONDS)
    except PinpointError:
        raise
    except Exception as error:
        # Of Dask, which imports the function in the scheduler, too.
        what = f"runs no task: {type(error).__name__}: {str(error).partition('. ')[0][:200]}"
        mend = "the scheduler and the workers must run in Pinpoint's environment: docs/hosts.md"
        raise HostError(what, where=f"host {name}", mend=mend) from None
    return found
