"""Who can reach a process over a network: the sockets it holds that wait for somebody."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import NamedTuple

_SOCKET = re.compile(r"socket:\[(\d+)\]")
# include/net/tcp_states.h: TCP_LISTEN. A UDP socket hears whatever it is bound to.
_LISTENING = "0A"


class Listener(NamedTuple):
    """A socket that others can reach: `tcp`, `udp`, `raw`, with a 6 behind it for IPv6; its address and port."""

    kind: str
    address: IPv4Address | IPv6Address
    port: int


def listeners(pid: int) -> set[Listener]:
    """The sockets of a process that a network reaches, loopback among them; Unix sockets are none.

    From /proc/PID/fd and /proc/PID/net (Documentation/networking/proc_net_tcp.rst, 6.1).
    """
    held = {found[1] for link in Path(f"/proc/{pid}/fd").iterdir() if (found := _SOCKET.match(_target(link)))}
    kinds = [f"{kind}{version}" for kind in ("tcp", "udp", "raw") for version in ("", "6")]
    return {listener for kind in kinds for inode, listener in _open(pid, kind) if inode in held}


def _target(link: Path) -> str:
    """Where a descriptor leads; empty when it was closed meanwhile."""
    try:
        return str(link.readlink())
    except FileNotFoundError:
        return ""


def _open(pid: int, kind: str) -> Iterator[tuple[str, Listener]]:
    """Inode and listener of each socket of a kind in the process's network that waits for somebody."""
    table = Path(f"/proc/{pid}/net/{kind}")
    for line in table.read_text().splitlines()[1:] if table.exists() else ():
        words = line.split()
        address, _, port = words[1].partition(":")
        if not kind.startswith("tcp") or words[3] == _LISTENING:
            yield words[9], Listener(kind, _address(address), int(port, 16))


def _address(digits: str) -> IPv4Address | IPv6Address:
    """Words of 32 bits, each as this machine has it in memory, printed as a number."""
    words = bytes.fromhex(digits)
    packed = b"".join(int.from_bytes(words[at : at + 4]).to_bytes(4, sys.byteorder) for at in range(0, len(words), 4))
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)
