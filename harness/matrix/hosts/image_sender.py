"""Sends images to hosts that lack them, each once to each host."""

from __future__ import annotations

import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import HostError
from harness.images import prepare
from harness.images.build_context import BuildContext
from harness.images.exchange import image_exchange
from harness.images.exchange.oci_layout import LayoutWriter, write_tar
from harness.images.vm_recipe import select
from harness.matrix.hosts import own_files, work_on_host

if TYPE_CHECKING:
    from harness.matrix.controller_run import ControllerRun

_CHUNK = 8 << 20

# Runs a function of work_on_host.py on the host: a name for the task, the function, and its arguments.
OnHost = Callable[..., Any]


class ImageSender:
    """Packs each image once, from the controller's store; also sends the user's own files."""

    def __init__(self, controller: ControllerRun, loader: str | None = None) -> None:
        """`loader` is the command of --loader. Raises UsageError for own files that cannot be sent."""
        self._controller = controller
        self.own, self._contents = own_files.collect(loader)
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._turn = threading.Lock()

    def send_own_files(self, on_host: OnHost) -> None:
        """Send the user's own files, if there are any, unless the host has them. Raises HostError."""
        if not self.own.key or on_host("has-own-files", work_on_host.has_own_files, self.own):
            return
        if error := on_host("own-files", work_on_host.receive_own_files, self.own, self._contents):
            raise HostError(error)

    def send(self, vm: str, on_host: OnHost) -> None:
        """Send the image of a VM, unless the host has it. Raises HostError."""
        recipe = self._controller.recipes.get(vm) or select([vm])[0]
        key = prepare.image_key(recipe, BuildContext.in_cache(self._controller.bus))
        if on_host(f"has-{vm}", work_on_host.has_image, vm, key, self.own):
            return
        with self._turn:
            turn = self._turns[vm]
        with turn:
            packed = self._packed(vm)
        name = f"{key}.tar"
        with self._controller.bus.step(vm, "send") as step, packed.open("rb") as content:
            size, sent = packed.stat().st_size, 0
            while chunk := content.read(_CHUNK):
                on_host(f"chunk-{vm}", work_on_host.receive_chunk, name, chunk, first=sent == 0)
                sent += len(chunk)
                step.publish_progress(f"{sent >> 20} MiB", sent / size)
            if error := on_host(f"import-{vm}", work_on_host.import_image, name, vm, key, self.own):
                raise HostError(error)

    def close(self) -> None:
        """Delete the packed images."""
        if self._scratch:
            self._scratch.cleanup()

    def _packed(self, vm: str) -> Path:
        with self._turn:
            if self._scratch is None:
                directory = self._controller.directory.path
                self._scratch = tempfile.TemporaryDirectory(prefix=".images-", dir=directory)
        root = Path(self._scratch.name)
        file = root / f"{vm}.tar"
        if not file.exists():
            recipe = self._controller.recipes.get(vm) or select([vm])[0]
            # Another context, so that the image contains only the look-ups in package lists that its key needs.
            context = BuildContext.in_cache(self._controller.bus)
            with self._controller.bus.step(vm, "pack") as step:
                image_exchange.write_image(recipe, context, LayoutWriter(root / vm), None, step)
                write_tar(root / vm, file)
        return file
