"""What runs on a host for frozen guests that come from the controller. Only guests under emulation travel.

A guest under emulation depends on QEMU alone; under KVM it depends on the host's processor and kernel, too
(frozen_guest_host_identity() in harness/guest/accelerator.py).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from harness.core.errors import PinpointError
from harness.core.events import Bus
from harness.core.files import sha256
from harness.guest import accelerator
from harness.images import prepare
from harness.images.build_context import BuildContext
from harness.images.exchange import entry_archive
from harness.images.store import key_of
from harness.images.vm_recipe import select
from harness.matrix.guests import freezer
from harness.matrix.hosts import own_files, work_on_host
from harness.matrix.hosts.own_files import OwnFiles


def wanted_frozen_guest(vm: str, forced_accelerator: str | None, own: OwnFiles) -> str:
    """Return the store key of the frozen guest that a row of a VM would thaw here, whose image is in the store.

    It is empty if the store has the guest, and if it would not run under emulation.
    """
    context = BuildContext.in_cache(Bus())
    with own_files.in_use(own, context):
        image = prepare.prepare(select([vm])[0], context)
    chosen = accelerator.choose(image.recipe.architecture, forced_accelerator)
    parts = freezer.frozen_guest_key_parts(image, chosen)
    return "" if not chosen.emulated or context.store.present(freezer.KIND, parts) else key_of(parts)


def import_frozen_guest(name: str, key: str, digest: str) -> str:
    """Add a frozen guest that has arrived to the store. Return an error, or nothing."""
    arrived = work_on_host.arrivals() / name
    try:
        if sha256(arrived) != digest:
            return "a frozen guest arrived damaged"
        BuildContext.in_cache(Bus()).store.adopt(freezer.KIND, key, fill=partial(_unpack, arrived, key))
    except PinpointError as error:
        return str(error)
    finally:
        arrived.unlink(missing_ok=True)
    return ""


def _unpack(arrived: Path, key: str, directory: Path) -> None:
    with arrived.open("rb") as packed:
        entry_archive.unpack(packed, directory, f"{freezer.KIND}-{key}")
