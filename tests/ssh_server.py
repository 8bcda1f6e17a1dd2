"""An SSH server in this process whose behavior a test sets."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

import paramiko
from paramiko.common import cMSG_CHANNEL_SUCCESS

from harness.core.deadline import Deadline
from harness.guest.keys import RunKeys
from harness.guest.ssh import SshConnection

SOON = 60.0
Behavior = Callable[[paramiko.Channel, str], None]


class Dropbear(paramiko.ServerInterface):
    """Accepts one key and records every command in `commands`."""

    def __init__(self, keys: RunKeys) -> None:
        self._keys = keys
        self.commands: list[tuple[paramiko.Channel, str]] = []

    def get_allowed_auths(self, _username: str) -> str:
        return "publickey,password"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        known = username == "root" and key == self._keys.client_key
        return paramiko.AUTH_SUCCESSFUL if known else paramiko.AUTH_FAILED

    def check_channel_request(self, _kind: str, _chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self.commands.append((channel, command.decode()))
        return True


class _Connection(paramiko.Transport):
    """Starts a command only after the client has the reply to its request, so that the command cannot end earlier."""

    def __init__(self, connection: socket.socket, server: Dropbear, begin: Behavior) -> None:
        super().__init__(connection)
        self._commands = server.commands
        self._begin = begin

    def _send_user_message(self, data: paramiko.Message) -> None:
        super()._send_user_message(data)  # type: ignore[misc]
        if data.asbytes()[:1] == cMSG_CHANNEL_SUCCESS:
            threading.Thread(target=self._run, args=self._commands.pop(0), daemon=True).start()

    def _run(self, channel: paramiko.Channel, command: str) -> None:
        """Run a command. What it sends after the client has left is lost, as in a guest."""
        with contextlib.suppress(EOFError):
            self._begin(channel, command)


class Server:
    """A listening server, its one connection, and the behavior of its commands."""

    def __init__(self) -> None:
        self.keys = RunKeys.make()
        self.behavior: Behavior = succeed
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.transport: paramiko.Transport | None = None
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        server = Dropbear(self.keys)
        self.transport = _Connection(connection, server, lambda *given: self.behavior(*given))
        self.transport.add_server_key(self.keys.guest_host_key)
        try:
            self.transport.start_server(server=server)
        except (paramiko.SSHException, EOFError, ConnectionResetError):
            return

    def link(self, keys: RunKeys | None = None) -> SshConnection:
        made = SshConnection("a-vm", self.port, keys or self.keys)
        made.connect(Deadline.after(SOON))
        return made

    def die(self) -> None:
        if self.transport:
            self.transport.close()
        self._listener.close()


def end(channel: paramiko.Channel, rc: int) -> None:
    channel.shutdown_write()
    channel.send_exit_status(rc)
    channel.close()


def succeed(channel: paramiko.Channel, command: str) -> None:
    channel.sendall(f"ran {command}\n".encode())
    end(channel, 0)
