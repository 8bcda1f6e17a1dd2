"""An SSH server in this process that behaves as a test wants it to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import paramiko

from harness.core.deadline import Deadline
from harness.guest.keys import RunKeys
from harness.guest.ssh import SshLink

SOON = 60.0
_HEAD_START = 0.1
Behaviour = Callable[[paramiko.Channel, str], None]


class Dropbear(paramiko.ServerInterface):
    """Lets one key in and hands every command to `behaviour`."""

    def __init__(self, keys: RunKeys, behaviour: Behaviour) -> None:
        self._keys = keys
        self._behaviour = behaviour

    def get_allowed_auths(self, _username: str) -> str:
        return "publickey,password"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        known = username == "root" and key == self._keys.client
        return paramiko.AUTH_SUCCESSFUL if known else paramiko.AUTH_FAILED

    def check_channel_request(self, _kind: str, _chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        # The reply to this request is sent after this returns; a command must not end before it has begun.
        threading.Timer(_HEAD_START, self._behaviour, (channel, command.decode())).start()
        return True


class Server:
    """A listening server, its one connection, and how its commands behave."""

    def __init__(self) -> None:
        self.keys = RunKeys.make()
        self.behaviour: Behaviour = succeed
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.transport: paramiko.Transport | None = None
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        self.transport = paramiko.Transport(connection)
        self.transport.add_server_key(self.keys.host)
        try:
            self.transport.start_server(server=Dropbear(self.keys, lambda *given: self.behaviour(*given)))
        except (paramiko.SSHException, EOFError):
            return

    def link(self, keys: RunKeys | None = None) -> SshLink:
        made = SshLink("a-vm", self.port, keys or self.keys)
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
