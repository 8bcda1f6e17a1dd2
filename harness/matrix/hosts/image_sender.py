"""Sends images to hosts that lack them, each once to each host, and the user's own files."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.errors import HostError
from harness.core.events import Bus
from harness.images import agreed_layers, prepare
from harness.images.agreed_layers import Layers
from harness.images.build_context import BuildContext
from harness.images.exchange import image_exchange
from harness.images.exchange.oci_layout import LayoutWriter, write_tar
from harness.images.vm_recipe import Recipe, select
from harness.matrix.guests import freezer
from harness.matrix.hosts import entry_transfer, frozen_on_host, own_files, work_on_host
from harness.matrix.hosts.entry_transfer import OnHost, TransferLocks
from harness.matrix.hosts.own_files import OwnFiles

if TYPE_CHECKING:
    from harness.matrix.controller_run import ControllerRun


class ImageSender:
    """Packs each image once, from the controller's store; also sends the user's own files."""

    def __init__(self, controller: ControllerRun, loader: str | None = None) -> None:
        """`loader` is the command of --loader. Raises UsageError for own files that cannot be sent."""
        self._controller = controller
        self._own, self._contents = own_files.collect(loader)
        self._layers: dict[str, Layers] = {}
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._scratch_lock = threading.Lock()
        self._locks = TransferLocks()

    def send_own_files(self, on_host: OnHost) -> None:
        """Send the user's own files, if there are any, unless the host has them. Raises HostError."""
        if not self._own.key or on_host("has-own-files", work_on_host.has_own_files, self._own):
            return
        if error := on_host("own-files", work_on_host.receive_own_files, self._own, self._contents):
            raise HostError(error)

    def own_with_images(self, vms: Iterable[str]) -> OwnFiles:
        """Return what is the user's own, with the images of these VMs."""
        keys = {vm: agreed_layers.key_of_layers(self._layers_of(vm)) for vm in vms}
        return replace(self._own, layers=keys)

    def send(self, vm: str, to: str, on_host: OnHost, *, boots: bool) -> None:
        """Send the image of a VM, and if it boots its frozen guest, unless the host has them. Raises HostError.

        `to` is the host's address. Parts of a row that begin there at once wait for one another, and so do VMs that
        have one image.
        """
        layers = self._layers_of(vm)
        key = agreed_layers.key_of_layers(layers)
        with self._locks.of(key, to):
            if not on_host(f"has-{vm}", work_on_host.has_image, vm, layers):
                with self._locks.of(vm):
                    packed = self._packed(vm)
                with self._controller.bus.step(vm, "send") as step:
                    arrival = entry_transfer.send_file(packed, key, on_host, step)
                    if error := on_host(f"import-{vm}", work_on_host.import_image, arrival, vm, layers):
                        raise HostError(error)
            if boots:
                self._send_frozen_guest(vm, on_host)

    def _send_frozen_guest(self, vm: str, on_host: OnHost) -> None:
        """Send the frozen guest that a host would thaw, if the controller's store has it. An error costs a boot."""
        own = self.own_with_images([vm])
        key = on_host(f"wants-{vm}", frozen_on_host.wanted_frozen_guest, vm, self._controller.forced_accelerator, own)
        store = BuildContext.in_cache(self._controller.bus).store
        if not key or not (store.root / f"{freezer.KIND}-{key}").is_dir():
            return
        with self._controller.bus.step(vm, "send frozen") as step:
            try:
                entry_transfer.send_entry(store, freezer.KIND, key, on_host, step)
            except (OSError, HostError) as error:
                # Another process has removed it meanwhile, or it did not arrive whole.
                step.set_final_detail(f"not used: {error}")

    def _layers_of(self, vm: str) -> Layers:
        if vm not in self._layers:
            self._layers[vm] = prepare.layers_of(self._recipe(vm), BuildContext.in_cache(Bus()))
        return self._layers[vm]

    def _recipe(self, vm: str) -> Recipe:
        return self._controller.recipes.get(vm) or select([vm])[0]

    def close(self) -> None:
        """Delete the packed images."""
        if self._scratch:
            self._scratch.cleanup()

    def _packed(self, vm: str) -> Path:
        with self._scratch_lock:
            if self._scratch is None:
                directory = self._controller.directory.path
                self._scratch = tempfile.TemporaryDirectory(prefix=".images-", dir=directory)
        root = Path(self._scratch.name)
        file = root / f"{vm}.tar"
        if not file.exists():
            recipe = self._recipe(vm)
            # Another context, so that the image contains only the look-ups in package lists that its key needs.
            context = BuildContext.in_cache(self._controller.bus)
            with self._controller.bus.step(vm, "pack") as step:
                image_exchange.write_image(recipe, context, LayoutWriter(root / vm), None, step)
                write_tar(root / vm, file)
        return file
