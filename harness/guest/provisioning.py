"""The host's word to a guest that waits: this run's keys, the time, and random numbers of the guest's own."""

from __future__ import annotations

import base64
import os
import time

from harness.guest.keys import RunKeys

WAITING = r"pinpoint: waiting"
READY = r"pinpoint: ready"

_SEED_BYTES = 64
# A terminal drops what it cannot buffer: all that is unread stays below 4096 bytes (N_TTY_BUF_SIZE,
# drivers/tty/n_tty.c, 6.1).
LONGEST = 4095


def word(keys: RunKeys) -> bytes:
    """One line of words for init's shell to read (vm_images/rootfs/init, await_word()).

    Who may log in, the server's key as printf takes it, seconds since the epoch, random numbers. Each line is good for
    one guest: the random numbers in it come from this host and are nobody else's.
    """
    kind, key, _ = keys.authorized.split()
    host_key = "".join(f"\\{byte:03o}" for byte in keys.host_key)
    seed = base64.b64encode(os.urandom(_SEED_BYTES)).decode()
    return f"{kind} {key} {host_key} {int(time.time())} {seed}\n".encode()
