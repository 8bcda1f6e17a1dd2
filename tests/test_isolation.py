"""A guest is isolated: only loopback reaches its QEMU, and no file or bundle holds its keys."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from test_guest_boot import Pretender

from harness.core.deadline import Deadline
from harness.core.errors import GuestLost
from harness.guest.accelerator import TCG, Accelerator
from harness.guest.guest import Guest
from harness.guest.keys import RunKeys
from harness.guest.process_listening_sockets import NetworkListener, network_listeners
from harness.guest.provisioning_line import format_provisioning_line
from harness.guest.qemu_process import QemuProcess
from harness.report.failure_evidence import gather_evidence

STAND_STILL = b"\x00\x00\x00\x14" * 4  # arm64: a branch to itself


@pytest.mark.parametrize(
    ("family", "kind", "address"),
    [
        (socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1"),
        (socket.AF_INET, socket.SOCK_STREAM, "0.0.0.0"),
        (socket.AF_INET6, socket.SOCK_STREAM, "::"),
        (socket.AF_INET6, socket.SOCK_STREAM, "::1"),
        (socket.AF_INET, socket.SOCK_DGRAM, "0.0.0.0"),
    ],
)
def test_whatever_listens_is_seen(family: int, kind: int, address: str) -> None:
    before = network_listeners(os.getpid())
    with socket.socket(family, kind) as one:
        try:
            one.bind((address, 0))
        except OSError:
            pytest.skip(f"this host has no {address}")
        if kind == socket.SOCK_STREAM:
            one.listen()
        name = ("tcp" if kind == socket.SOCK_STREAM else "udp") + ("6" if family == socket.AF_INET6 else "")
        assert network_listeners(os.getpid()) - before == {
            NetworkListener(name, ip_address(address), one.getsockname()[1])
        }
    assert network_listeners(os.getpid()) == before


def test_a_connection_is_no_listener() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getsockname()[1] not in {each.port for each in network_listeners(os.getpid())}


def test_another_process_is_asked_about_itself() -> None:
    script = (
        "import socket, sys; s = socket.create_server(('0.0.0.0', 0)); print(s.getsockname()[1], flush=True); input()"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout
    port = int(child.stdout.readline())
    assert network_listeners(child.pid) == {NetworkListener("tcp", ip_address("0.0.0.0"), port)}
    child.communicate("\n")


@pytest.fixture(scope="module")
def keys() -> RunKeys:
    return RunKeys.make()


@pytest.fixture
def guest(tmp_path: Path, keys: RunKeys, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guest]:
    """Return a guest that was sent the run's keys and never answers."""
    monkeypatch.setenv("PINPOINT_CACHE", str(tmp_path / "cache"))
    image = Pretender(tmp_path).image(STAND_STILL)
    accelerator = Accelerator(TCG, "forced")
    log = tmp_path / "console.log"
    emulator = QemuProcess(image, console_log=log, accelerator=accelerator, deadline=Deadline.after(120))
    with Guest(image, emulator, accelerator) as made:
        made.console.type(format_provisioning_line(keys))
        yield made


def secrets(keys: RunKeys) -> list[bytes]:
    """Return the secret parts of a run's keys in all forms in which they are written."""
    client = keys.client_key.key.private_numbers()
    raw = [
        keys.guest_host_key._signing_key._seed if hasattr(keys.guest_host_key, "_signing_key") else b"",
        client.d.to_bytes(256, "big"),
        client.p.to_bytes(128, "big"),
        client.q.to_bytes(128, "big"),
    ]
    raw = [each for each in raw if each]
    return [
        *raw,
        *(each.hex().encode() for each in raw),
        *(base64.b64encode(each)[:40] for each in raw),
        base64.b64encode(keys.dropbear_host_key)[:60],
        *("".join(f"\\{byte:03o}" for byte in each).encode() for each in (*raw, keys.dropbear_host_key[-64:-32])),
        b"PRIVATE KEY",
    ]


@pytest.mark.slow
def test_the_keys_of_a_guest_are_in_no_file(guest: Guest, keys: RunKeys, tmp_path: Path) -> None:
    reported = format_provisioning_line(keys)
    assert any(secret in reported for secret in secrets(keys)), "the check looks for nothing"
    guest.stop()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"console.log", "kernel", "initrd"} <= {path.name for path in files}
    assert not [path for path in files for secret in secrets(keys) if secret in path.read_bytes()]


@pytest.mark.slow
def test_what_a_bundle_is_made_of_holds_no_private_key(guest: Guest, keys: RunKeys) -> None:
    found = gather_evidence(guest, GuestLost("no answer"))
    assert {"console.log", "registers.txt", "events.txt"} <= set(found.file_contents)
    assert found.absence_reasons["dmesg.txt"] == "the guest does not answer"
    for content in (*found.file_contents.values(), " ".join(guest.argv).encode()):
        assert not [secret for secret in secrets(keys) if secret in content]


@pytest.mark.slow
def test_a_qemu_listens_on_loopback_alone_and_is_confined(guest: Guest) -> None:
    found = network_listeners(guest.pid)
    assert [(each.kind, each.address.is_loopback) for each in found] == [("tcp", True)]
    status = Path(f"/proc/{guest.pid}/status").read_text().split()
    assert status[status.index("Seccomp:") + 1] == "2"
