"""The rights of a QEMU process on the host: what it reads is little, and it writes nothing."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from harness.core import child_privilege_drop, paths
from harness.core.child_privilege_drop import Rights

KVM_DEVICE = Path("/dev/kvm")


def qemu_process_rights(program: str, accelerated: bool, reads: Sequence[Path]) -> Rights | None:
    """Return the rights of QEMU `program` to read these files, and to open /dev/kvm if it is accelerated.

    Returns None if QEMU keeps this process's rights.
    """
    groups = child_privilege_drop.device_groups(KVM_DEVICE) if accelerated else ()
    return child_privilege_drop.grant_restricted_rights([*_installation(program), *reads], groups=groups)


def _installation(program: str) -> list[Path]:
    """Return what the program consists of, if it is not installed on the host: its whole entry of the store."""
    found = shutil.which(program)
    return [paths.store_entry_or_path(Path(found))] if found else []
