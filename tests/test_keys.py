"""Each run has its own SSH keys, and none of the private keys is printed."""

from __future__ import annotations

import paramiko
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from harness.guest.keys import RunKeys


@pytest.fixture(scope="module")
def keys() -> RunKeys:
    return RunKeys.make()


def test_host_key_is_the_one_we_pin(keys: RunKeys) -> None:
    stored = keys.dropbear_host_key
    assert stored[:15] == b"\0\0\0\x0bssh-ed25519"
    assert stored[15:19] == (64).to_bytes(4, "big")
    private, public = stored[19:51], stored[51:]
    assert Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw() == public
    assert keys.guest_host_key.asbytes().endswith(public)


def test_authorized_key_is_the_one_we_log_in_with(keys: RunKeys) -> None:
    kind, blob, _ = keys.authorized_keys_line.split()
    assert (kind, blob) == ("ssh-rsa", keys.client_key.get_base64())
    assert keys.client_key.can_sign()


def test_every_run_has_its_own(keys: RunKeys) -> None:
    other = RunKeys.make()
    assert other.client_key != keys.client_key
    assert other.guest_host_key != keys.guest_host_key


def test_no_private_key_is_printed(keys: RunKeys) -> None:
    assert "dropbear_host_key" not in repr(keys)


def test_paramiko_would_refuse_another_host(keys: RunKeys) -> None:
    known = paramiko.HostKeys()
    known.add("[127.0.0.1]:1", keys.guest_host_key.get_name(), keys.guest_host_key)
    assert known.check("[127.0.0.1]:1", keys.guest_host_key)
    assert not known.check("[127.0.0.1]:1", RunKeys.make().guest_host_key)
