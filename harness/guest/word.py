"""The host's word to a guest that waits: this run's keys, the time, and random numbers of the guest's own."""

from __future__ import annotations

import base64
import os
import textwrap
import time

from harness.guest.keys import RunKeys

WAITING = r"pinpoint: waiting"
READY = r"pinpoint: ready"

_SEED_BYTES = 64
# A terminal drops what it cannot buffer: a line, and all that is unread together, stay below 4096 bytes
# (N_TTY_BUF_SIZE, drivers/tty/n_tty.c, 6.1).
_LINE = 1024
_RESEED = "/tmp/pinpoint_reseed"
# Where there is one, a thawed guest's clock stands still without it (probes/tick_parisc.c).
_TICK = "/tmp/pinpoint_tick.ko"
_SCRIPT = """\
umask 077
mkdir -p /root/.ssh
echo '{authorized}' >/root/.ssh/authorized_keys
base64 -d >/etc/dropbear/dropbear_ed25519_host_key <<end
{host_key}
end
umask 022
date -s @{seconds} >/dev/null
[ ! -x {reseed} ] || must {reseed} <<end
{seed}
end
[ ! -e {tick} ] || insmod {tick} 2>/dev/null
"""


def word(keys: RunKeys) -> bytes:
    """A script for init's shell, its length on a line before it (vm_images/rootfs/init, await_word()).

    Each is good for one guest: the random numbers in it come from this host and are nobody else's.
    """
    script = _SCRIPT.format(
        authorized=keys.authorized,
        host_key=_base64(keys.host_key),
        seconds=int(time.time()),
        reseed=_RESEED,
        tick=_TICK,
        seed=_base64(os.urandom(_SEED_BYTES)),
    ).encode()
    return b"%d\n" % len(script) + script


def _base64(content: bytes) -> str:
    return textwrap.fill(base64.b64encode(content).decode(), _LINE)
