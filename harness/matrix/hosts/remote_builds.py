"""Builds images on hosts that have more cores than the controller, and imports them into the controller's store."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.core import paths, process
from harness.core.errors import BuildError, HostError, PinpointError
from harness.core.events import Bus, ProgressStep
from harness.images import prepare
from harness.images.build_context import BuildContext
from harness.images.exchange import image_exchange
from harness.images.exchange.oci_layout import read_layout
from harness.images.recipe_files import files_by_name, tree_of
from harness.images.vm_recipe import Recipe
from harness.matrix.cell_shards.engine import BUILD, ShardNeeds
from harness.matrix.hosts import build_on_host
from harness.matrix.hosts.host_placement import Host, Placement

_LOOK_SECONDS = 1.0
# Sources that are directories or files of the controller's host.
_NOT_SENT = ("tree", "given")
# What a compile of a kernel may use of memory, and what it uses of the cores of a host: all.
_GIB = 3.0

# Runs a function on a host: the host, a name for the task, the function, and its arguments.
OnOneHost = Callable[..., Any]


class RemoteBuilds:
    """`obtain` is called for each image before the controller would build it."""

    def __init__(self, placement: Placement, on_host: OnOneHost, bus: Bus) -> None:
        """`on_host` runs a function on a host, and raises an error of Dask if the host is lost."""
        self._placement = placement
        self._on_host = on_host
        self._bus = bus
        self._ending = threading.Event()

    def obtain(self, recipe: Recipe) -> None:
        """Build an image on the host with the most cores, if it has more than this one and the store lacks the image.

        Otherwise, or when the host is lost or would build another image, the caller builds it. Raises BuildError when
        the build fails.
        """
        context = BuildContext.in_cache(self._bus)
        names_own_files = recipe.kernel.source in _NOT_SENT or tree_of(files_by_name()[recipe.name]) == paths.own_tree()
        if names_own_files or prepare.is_built(recipe, context):
            return
        while taken := self._choose(recipe):
            host, lane = taken
            if lane:
                break
            if self._ending.wait(_LOOK_SECONDS) or process.is_stopping():
                return
        else:
            return
        try:
            with self._bus.step(recipe.name, "build") as step:
                step.publish_progress(f"on host {host.name}")
                self._build(recipe, host, context, step)
        finally:
            self._placement.release(lane)

    def close(self) -> None:
        """Let no further build begin."""
        self._ending.set()

    def _choose(self, recipe: Recipe) -> tuple[Host, str] | None:
        """Return the best host and a lane there, which is empty if the host has no room now; None if none is better."""
        compiles = recipe.kernel.source != "debian-binary"

        def needs(host: Host) -> ShardNeeds:
            return ShardNeeds(recipe.name, host.cores if compiles else 1.0, min(_GIB, host.gib))

        return self._placement.take_for_build(f"{BUILD}-{recipe.arch}", len(os.sched_getaffinity(0)), needs)

    def _build(self, recipe: Recipe, host: Host, context: BuildContext, step: ProgressStep) -> None:
        try:
            given = recipe.model_dump_json()
            archive, size, error = self._on_host(host, f"build-{recipe.name}", build_on_host.build_image, given)
            if error:
                raise BuildError(f"on host {host.name}: {error}")
            with tempfile.TemporaryDirectory(prefix="pinpoint-image-") as directory:
                self._fetch(host, archive, size, Path(directory, "image.tar"), step)
                list(image_exchange.read_images(read_layout(Path(directory, "image.tar")), context, None, step))
        except PinpointError:
            raise
        except Exception as lost:
            # Of Dask: it has many kinds. The caller builds the image.
            step.set_final_detail(f"host {host.name} was lost ({type(lost).__name__}); building here")
            return
        there = prepare.is_built(recipe, context)
        step.set_final_detail(
            f"on host {host.name}" if there else f"host {host.name} has other packages or compilers; building here"
        )

    def _fetch(self, host: Host, archive: str, size: int, into: Path, step: ProgressStep) -> None:
        with into.open("wb") as file:
            while file.tell() < size:
                chunk = self._on_host(host, "chunk", build_on_host.read_chunk, archive, file.tell())
                if not chunk:
                    raise HostError(f"sent only {file.tell()} of {size} bytes of an image", where=f"host {host.name}")
                file.write(chunk)
                step.publish_progress(f"from host {host.name}: {file.tell() >> 20} MiB", file.tell() / size)
        self._on_host(host, "remove", build_on_host.remove_archive, archive)
