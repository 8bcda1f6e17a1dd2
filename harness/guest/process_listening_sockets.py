"""Sockets on which a process can be reached over a network."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import NamedTuple

_SOCKET = re.compile(r"socket:\[(\d+)\]")
# include/net/tcp_states.h: TCP_LISTEN. A bound UDP socket receives without listening.
_LISTENING = "0A"


class NetworkListener(NamedTuple):
    """A reachable socket: its kind (`tcp`, `udp` or `raw`, followed by 6 for IPv6), its address and its port."""

    kind: str
    address: IPv4Address | IPv6Address
    port: int


def network_listeners(pid: int) -> set[NetworkListener]:
    """Return the sockets on which a process is reachable over a network, including loopback; Unix sockets do not count.

    Source: /proc/PID/fd and /proc/PID/net (Documentation/networking/proc_net_tcp.rst, 6.1).
    """
    held = {found[1] for link in Path(f"/proc/{pid}/fd").iterdir() if (found := _SOCKET.match(_target(link)))}
    kinds = [f"{kind}{version}" for kind in ("tcp", "udp", "raw") for version in ("", "6")]
    return {listener for kind in kinds for inode, listener in _open(pid, kind) if inode in held}


def _target(link: Path) -> str:
    """Return the target of a descriptor; empty if it was closed meanwhile."""
    try:
        return str(link.readlink())
    except FileNotFoundError:
        return ""


def _open(pid: int, kind: str) -> Iterator[tuple[str, NetworkListener]]:
    """Yield inode and listener of each reachable socket of one kind in the process's network namespace."""
    table = Path(f"/proc/{pid}/net/{kind}")
    for line in table.read_text().splitlines()[1:] if table.exists() else ():
        words = line.split()
        address, _, port = words[1].partition(":")
        if not kind.startswith("tcp") or words[3] == _LISTENING:
            yield words[9], NetworkListener(kind, _address(address), int(port, 16))


def _address(digits: str) -> IPv4Address | IPv6Address:
    """Return the address for the digits: words of 32 bits, each printed as a number in the host's byte order."""
    words = bytes.fromhex(digits)
    packed = b"".join(int.from_bytes(words[at : at + 4]).to_bytes(4, sys.byteorder) for at in range(0, len(words), 4))
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)
