"""What runs on a host for frozen guests: one that the controller has arrives, or one is made and sent back.

Only guests under emulation travel. They depend on QEMU alone; under KVM a guest depends on the host's processor and
kernel, too (frozen_guest_host_identity() in harness/guest/accelerator.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.core import paths
from harness.core.events import Bus
from harness.guest import accelerator, start
from harness.guest.accelerator import Accelerator
from harness.guest.guest import Guest
from harness.guest.keys import RunKeys
from harness.guest.start import StartOptions
from harness.images import prepare
from harness.images.build_context import BuildContext
from harness.images.image import Image
from harness.images.store import key_of
from harness.images.vm_recipe import select
from harness.matrix.cells import cell_phases_and_verdict
from harness.matrix.guests import freezer
from harness.matrix.guests.freezer import Freezer
from harness.matrix.hosts import entries_on_host, own_files
from harness.matrix.hosts.entries_on_host import PackedEntry
from harness.matrix.hosts.own_files import OwnFiles

_MOST_CONSOLE = 1 << 20


@dataclass(frozen=True)
class FrozenThere:
    """A frozen guest of a host: its key and inputs in the store; empty if its guests run under KVM.

    If it failed, `error` is the reason, `verdict` that of the row, and `console` the end of the guest's console log.
    """

    key: str = ""
    parts: tuple[str, ...] = ()
    error: str = ""
    verdict: str = ""
    console: bytes = b""


def wanted_frozen_guest(vm: str, forced_accelerator: str | None, own: OwnFiles) -> str:
    """Return the store key of the frozen guest that a row of a VM would thaw here, whose image is in the store.

    It is empty if the store has the guest, if it would not run under emulation, and if QEMU cannot save the machine.
    """
    context = BuildContext.in_cache(Bus())
    image, chosen = _image_and_accelerator(vm, forced_accelerator, own, context)
    parts = freezer.frozen_guest_key_parts(image, chosen)
    wanted = chosen.emulated and freezer.can_be_frozen(image) and not context.store.present(freezer.KIND, parts)
    return key_of(parts) if wanted else ""


def freeze(vm: str, forced_accelerator: str | None, own: OwnFiles) -> FrozenThere:
    """Boot a guest whose image is in the store, prove its traits, and freeze it, unless the store has it."""
    context = BuildContext.in_cache(Bus())
    log = paths.cache() / "logs" / f"freeze-{vm}.log"
    log.unlink(missing_ok=True)
    try:
        image, chosen = _image_and_accelerator(vm, forced_accelerator, own, context)
        if not chosen.emulated:
            return FrozenThere()

        def boot(keys: RunKeys) -> Guest:
            options = StartOptions.for_image(
                image, log=log, keys=keys, bus=context.bus, forced_accelerator=forced_accelerator
            )
            return start.boot(image, options)

        Freezer(context, context.bus, forced_accelerator).obtain_frozen_state_file(image, boot)
        parts = freezer.frozen_guest_key_parts(image, chosen)
    except Exception as error:
        verdict = cell_phases_and_verdict.verdict_of_error(error)
        console = log.read_bytes()[-_MOST_CONSOLE:] if log.exists() else b""
        return FrozenThere(
            error=cell_phases_and_verdict.first_line_of_error(error), verdict=verdict.value, console=console
        )
    return FrozenThere(key_of(parts), tuple(parts))


def pack_frozen_guest(parts: tuple[str, ...]) -> PackedEntry:
    """Pack a frozen guest of this host's store."""
    return entries_on_host.pack_entry(freezer.KIND, parts)


def _image_and_accelerator(
    vm: str, forced_accelerator: str | None, own: OwnFiles, context: BuildContext
) -> tuple[Image, Accelerator]:
    with own_files.in_use(own, context):
        image = prepare.prepare(select([vm])[0], context)
    return image, accelerator.choose(image.recipe.architecture, forced_accelerator)
