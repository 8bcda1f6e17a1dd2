"""An SSH transport that limits what a server can make this process keep in memory."""

from __future__ import annotations

import errno
import socket
from typing import Any, ClassVar

import paramiko
from paramiko.common import MSG_CHANNEL_DATA, MSG_CHANNEL_EXTENDED_DATA

# Every implementation must accept packets of 35000 bytes (RFC 4253, 6.1), and paramiko accepts packets of 4 GiB.
# dropbear 2022.83 sends at most 35000 bytes, OpenSSH 256 KiB.
_LONGEST_PACKET = 1 << 20


class _Socket:
    """A connected socket from which no packet of more than `_LONGEST_PACKET` is read."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> object:
        return getattr(self._connection, name)

    def recv(self, size: int) -> bytes:
        """Return up to `size` bytes. paramiko passes the number of bytes that the packet still has."""
        if size > _LONGEST_PACKET:
            raise ConnectionAbortedError(errno.ECONNABORTED, f"the server sends a packet of {size} bytes")
        return self._connection.recv(size)


def _feed(channel: paramiko.Channel, message: paramiko.Message) -> None:
    paramiko.Channel._feed(channel, message)
    _demand_window_observed(channel)


def _feed_extended(channel: paramiko.Channel, message: paramiko.Message) -> None:
    paramiko.Channel._feed_extended(channel, message)
    _demand_window_observed(channel)


def _demand_window_observed(channel: paramiko.Channel) -> None:
    """Break the connection if more bytes are unread than the server may send (RFC 4254, 5.2)."""
    if len(channel.in_buffer) + len(channel.in_stderr_buffer) > channel.in_window_size:
        raise paramiko.SSHException("the server sends more than the channel's window")


class BoundedTransport(paramiko.Transport):  # type: ignore[misc]  # paramiko has no types
    """A transport whose packets and whose channels' unread output are of bounded size."""

    _channel_handler_table: ClassVar[dict[int, Any]] = {
        **paramiko.Transport._channel_handler_table,
        MSG_CHANNEL_DATA: _feed,
        MSG_CHANNEL_EXTENDED_DATA: _feed_extended,
    }

    def __init__(self, connection: socket.socket, **options: bool) -> None:
        super().__init__(_Socket(connection), **options)
