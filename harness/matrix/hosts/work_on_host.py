"""What runs on a host of a cluster, in a thread of its Dask worker: the process of a shard, and the images it needs.

Messages go to the controller through a queue of the cluster's scheduler: `[NAME, MESSAGES]` as JSON. Files go there
before the report that names them, and at the end: `{"file": PATH, "append": BASE64}`. The last message of a process is
`{"over": HOW}`.

A process runs only with a token that the controller has put into a queue, one for each process: Dask may run a task
again whose worker it believes to be lost. It ends when the controller has not renewed its lease for a minute.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.core import paths
from harness.core.errors import HostError, PinpointError
from harness.core.events import Bus
from harness.core.files import sha256, sha256_of_strings
from harness.core.host_packages import SOURCE, missing_build_packages
from harness.guest import accelerator
from harness.images import agreed_layers
from harness.images.agreed_layers import Layers
from harness.images.build_context import BuildContext
from harness.images.exchange import image_exchange
from harness.images.exchange.oci_layout import read_layout
from harness.images.vm_recipe import load_all
from harness.matrix.cell_shards.engine import ABILITY_OF_ACCELERATOR, BUILD, ShardEnd
from harness.matrix.cell_shards.local_processes import LocalProcesses
from harness.matrix.cell_shards.shard_order import Message, ShardOrder
from harness.matrix.hosts import entries_on_host, own_files
from harness.matrix.hosts.moved_paths import MovedPaths
from harness.matrix.hosts.own_files import Contents, OwnFiles

STOP = "stop"
_CHUNK = 1 << 22
_LOOK_SECONDS = 1.0
_READ_LEASE_SECONDS = 5.0
# A controller renews its lease more often than this.
LEASE_SECONDS = 60.0
_TOKEN_SECONDS = 30.0
# The directories of the shards that run here now.
DIRECTORIES: set[Path] = set()


def identity_of_code() -> str:
    """Return a digest of Pinpoint's code, cases and probes: hosts and controller must have the same."""
    trees = (Path(__file__).parents[2], paths.CASES, paths.PROBES, paths.RECIPES)
    parts = []
    for tree in trees:
        for file in sorted(path for path in tree.rglob("*") if path.is_file() and path.suffix in _SUFFIXES):
            parts += [str(file.relative_to(tree)), sha256(file)]
    return sha256_of_strings(parts)


_SUFFIXES = frozenset((".py", ".c", ".h", ".S", ".toml", ".config", ".patch"))


def describe_host() -> dict[str, Any]:
    """Return what this host has: cores, memory, and its abilities.

    They are `kvm-ARCH` and `qemu-ARCH` for each accelerator whose canary runs, and `build-ARCH` if no package is
    missing to build kernels and modules. `lacks` has the reason for each ability that the host does not have.
    """
    with own_files.in_use(own_files.NONE, BuildContext.in_cache(Bus())):
        architectures = {recipe.arch: recipe.architecture for recipe in load_all().values()}
    abilities, lacks = [], {}
    for name, architecture in architectures.items():
        for way, ability in ABILITY_OF_ACCELERATOR.items():
            try:
                accelerator.choose(architecture, way)
                abilities.append(f"{ability}-{name}")
            except PinpointError as error:
                lacks[f"{ability}-{name}"] = str(error)
        if missing := missing_build_packages([name, SOURCE]):
            lacks[f"{BUILD}-{name}"] = f"missing packages: {' '.join(missing)}"
        else:
            abilities.append(f"{BUILD}-{name}")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "gib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        "abilities": abilities,
        "lacks": lacks,
        "code": identity_of_code(),
    }


def has_image(vm: str, layers: Layers) -> bool:
    """Keep the inputs of the controller's image of a VM. Return True if its entries are in this host's store."""
    store = BuildContext.in_cache(Bus()).store
    agreed_layers.keep(layers, vm, store)
    return all(store.present(kind, parts) for kind, parts in layers.items())


def has_own_files(own: OwnFiles) -> bool:
    """Return True if this host has the user's own files."""
    return BuildContext.in_cache(Bus()).store.present(own_files.KIND, [own.key])


def receive_own_files(own: OwnFiles, contents: Contents) -> str:
    """Add the user's own files to this host's store. Return an error, or nothing."""
    try:
        own_files.receive(own, contents, BuildContext.in_cache(Bus()))
    except PinpointError as error:
        return str(error)
    return ""


def import_image(name: str, vm: str, layers: Layers) -> str:
    """Add an image that has arrived to the store; each file is compared with its hash. Return an error, or nothing."""
    arrived = entries_on_host.arrivals() / name
    context = BuildContext.in_cache(Bus())
    try:
        with context.bus.step("host", "import") as step:
            list(image_exchange.read_images(read_layout(arrived), context, None, step))
    except PinpointError as error:
        return str(error)
    finally:
        arrived.unlink(missing_ok=True)
    return "" if has_image(vm, layers) else f"not every part of the image of {vm} arrived"


def run_order(text: str, topic: str, project: str, own: OwnFiles) -> None:
    """Run the process of an order and send its messages. `project` is the controller's directory of Pinpoint."""
    from distributed import Queue, Variable, get_client

    client = get_client(timeout=_TOKEN_SECONDS)
    order = ShardOrder.model_validate_json(text)
    messages = Queue(topic, client=client)
    try:
        Queue(f"{topic}-token-{order.name}", client=client).get(timeout=_TOKEN_SECONDS)
    except TimeoutError:
        return
    lease = Variable(f"{topic}-lease", client=client)
    how = "could not be started"
    try:
        for some in _run(order, topic, project, own, lease):
            if isinstance(some, ShardEnd):
                how = some.how
            elif some:
                messages.put(json.dumps([order.name, some]))
    except (PinpointError, OSError) as error:
        how = f"could not be run on {socket.gethostname()}: {error}"
    messages.put(json.dumps([order.name, [{"over": how}]]))


def _run(
    order: ShardOrder,
    topic: str,
    project: str,
    own: OwnFiles,
    lease: Any,  # noqa: ANN401 - a class of Dask
) -> Iterator[Sequence[Message] | ShardEnd]:
    directory = paths.cache() / "shards" / topic / order.name
    shutil.rmtree(directory, ignore_errors=True)
    DIRECTORIES.add(directory)
    (directory / "console").mkdir(parents=True)
    context = BuildContext.in_cache(Bus())
    moved = MovedPaths((project, str(paths.PROJECT)), own.copies(context), order.arguments, own.tree)
    here = {
        "directory": str(directory),
        "arguments": moved.arguments,
        "node_ids": tuple(map(moved.node_id_here, order.node_ids)),
        "options": {**order.options, "basetemp": str(directory / "tmp"), "project": None},
    }
    engine = LocalProcesses(1)
    with own_files.in_use(own, context):
        engine.start(order.model_copy(update=here))
    watch = _Lease(lease)
    try:
        while True:
            some: list[Message] = []
            for _, update in engine.updates(_LOOK_SECONDS):
                if isinstance(update, ShardEnd):
                    shutil.rmtree(directory / "tmp", ignore_errors=True)
                    yield some
                    yield from ([part] for part in _files(directory, directory))
                    yield update
                    return
                bundle = update.get("report", {}).get("pinpoint_cell", {}).get("bundle", "")
                if bundle:
                    yield some
                    yield from ([part] for part in _files(directory / bundle, directory))
                    some = []
                some.append(moved.message_at_the_controller(update))
            yield some
            watch.demand_renewed()
    finally:
        engine.stop()
        shutil.rmtree(directory, ignore_errors=True)
        DIRECTORIES.discard(directory)


def _files(place: Path, root: Path) -> Iterator[Message]:
    """Yield the files below a directory in parts, and delete each."""
    for file in sorted(path for path in place.rglob("*") if path.is_file() and not path.is_symlink()):
        with file.open("rb") as content:
            while True:
                chunk = content.read(_CHUNK)
                yield {"file": str(file.relative_to(root)), "append": base64.b64encode(chunk).decode()}
                if len(chunk) < _CHUNK:
                    break
        file.unlink()


class _Lease:
    """Watches the controller's lease."""

    def __init__(self, lease: Any) -> None:  # noqa: ANN401 - a class of Dask
        self._lease = lease
        self._value: object = None
        self._renewed = self._read = time.monotonic()

    def demand_renewed(self) -> None:
        """Raise HostError if the controller has ended the run, or has not renewed its lease."""
        now = time.monotonic()
        if now - self._read < _READ_LEASE_SECONDS:
            return
        self._read = now
        try:
            value = self._lease.get(timeout=_READ_LEASE_SECONDS)
        except (OSError, TimeoutError):
            value = self._value
        if value == STOP:
            raise HostError("the run has ended")
        if value != self._value:
            self._value, self._renewed = value, now
        elif now - self._renewed > LEASE_SECONDS:
            raise HostError("the run's controller is gone")
