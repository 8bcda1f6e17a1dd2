"""Freezes the guest of a row once, on one host, before its parts begin; the others thaw it.

Under KVM a frozen guest depends on its host, so there each host freezes its own.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from harness.core.errors import HostError, PinpointError
from harness.core.events import Bus
from harness.guest.accelerator import KVM, TCG
from harness.images.build_context import BuildContext
from harness.images.image import Image
from harness.matrix.cell_shards.engine import ABILITY_OF_ACCELERATOR, needs_of_row
from harness.matrix.guests import freezer
from harness.matrix.hosts import build_tasks, entry_transfer, frozen_on_host
from harness.matrix.hosts.build_tasks import BuildTurns
from harness.matrix.hosts.frozen_on_host import FrozenThere
from harness.matrix.hosts.host_placement import Host, Placement
from harness.matrix.hosts.image_sender import ImageSender
from harness.matrix.hosts.remote_builds import OnOneHost, PastSeconds
from harness.verdict.cell_verdict_enum import Verdict

if TYPE_CHECKING:
    from harness.matrix.controller_run import ControllerRun


class RemoteFreezes:
    """`freeze` is called for each row, when its image is in the controller's store."""

    def __init__(
        self,
        placement: Placement,
        turns: BuildTurns,
        on_host: OnOneHost,
        sender: ImageSender,
        controller: ControllerRun,
        past: PastSeconds,
    ) -> None:
        self._placement = placement
        self._turns = turns
        self._on_host = on_host
        self._sender = sender
        self._forced = controller.forced_accelerator
        self._directory = controller.directory.path
        self._bus = controller.bus
        self._past = past

    def freeze(self, image: Image) -> tuple[str, str] | None:
        """Freeze a guest on a host that emulates, and add it to the controller's store, if QEMU can save the machine.

        Return the verdict and the reason if the guest failed. Another error, of a host, costs only time: then the
        processes of the row boot guests themselves.
        """
        recipe = image.recipe
        kvm, emulated = (f"{ABILITY_OF_ACCELERATOR[way]}-{recipe.arch}" for way in (KVM, TCG))
        has_kvm = any(kvm in host.abilities and host.most_lanes for host in self._placement.hosts.values())
        if self._forced == KVM or (has_kvm and self._forced != TCG) or not freezer.can_be_frozen(image):
            return None
        needs = needs_of_row(recipe, TCG)
        task = build_tasks.freeze_task(recipe, self._past.get(recipe.name, {}), needs)
        taken = self._turns.take(task, lambda host: emulated in host.abilities)
        if not taken:
            return None
        host, lane = taken
        found = FrozenThere()
        try:
            with suppress(HostError), self._bus.step(recipe.name, task.name) as step:
                step.publish_progress(f"on host {host.name}")
                found = self._freeze_on(host, recipe.name)
                if found.error:
                    raise HostError(f"on host {host.name}: {found.error}")
                step.set_final_detail(f"on host {host.name}")
        finally:
            self._placement.release(lane)
        if not found.error or found.verdict == Verdict.HARNESS_ERROR.value:
            return None
        console = self._directory / "console" / f"{recipe.name}-freeze.log"
        console.parent.mkdir(parents=True, exist_ok=True)
        console.write_bytes(found.console)
        return found.verdict, found.error

    def _freeze_on(self, host: Host, vm: str) -> FrozenThere:
        on_host = partial(self._on_host, host)
        try:
            self._sender.send_own_files(on_host)
            self._sender.send(vm, host.address, on_host, boots=True)
            own = self._sender.own_with_images([vm])
            found: FrozenThere = on_host(f"freeze-{vm}", frozen_on_host.freeze, vm, self._forced, own)
            store = BuildContext.in_cache(Bus()).store
            if found.key and not store.present(freezer.KIND, found.parts):
                packed = on_host(f"pack-{vm}", frozen_on_host.pack_frozen_guest, found.parts)
                with self._bus.step(vm, "fetch frozen") as step:
                    entry_transfer.fetch_entry(packed, store, on_host, step)
        except PinpointError as error:
            raise HostError(str(error)) from None
        except Exception as lost:
            # Of Dask: it has many kinds.
            raise HostError(f"host {host.name} was lost ({type(lost).__name__})") from None
        return found
