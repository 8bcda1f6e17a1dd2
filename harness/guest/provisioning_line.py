"""The provisioning line that the host types at init: keys, time, and random numbers for this guest."""

from __future__ import annotations

import base64
import os
import time

from harness.guest.keys import RunKeys

WAITING = r"pinpoint: waiting"
READY = r"pinpoint: ready"

_SEED_BYTES = 64
# A terminal drops input that it cannot buffer: unread input must stay below 4096 bytes (N_TTY_BUF_SIZE,
# drivers/tty/n_tty.c, 6.1).
LONGEST = 4095


def format_provisioning_line(keys: RunKeys) -> bytes:
    """Return one provisioning line for init's shell (vm_images/rootfs/init, await_provisioning()).

    Its words are the authorized key, the server's key in printf's escapes, seconds since the epoch, and random numbers.
    Each line serves one guest: its random numbers come from this host, and no other guest receives them.
    """
    kind, key, _ = keys.authorized_keys_line.split()
    host_key = "".join(f"\\{byte:03o}" for byte in keys.dropbear_host_key)
    seed = base64.b64encode(os.urandom(_SEED_BYTES)).decode()
    return f"{kind} {key} {host_key} {int(time.time())} {seed}\n".encode()
