"""The keys of a run and the word that brings them into a guest."""

from __future__ import annotations

import base64
import subprocess
import tempfile
import time
from pathlib import Path

import paramiko
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from harness.guest.keys import RunKeys
from harness.guest.word import word


@pytest.fixture(scope="module")
def keys() -> RunKeys:
    return RunKeys.make()


def test_host_key_is_the_one_we_pin(keys: RunKeys) -> None:
    stored = keys.host_key
    assert stored[:15] == b"\0\0\0\x0bssh-ed25519"
    assert stored[15:19] == (64).to_bytes(4, "big")
    private, public = stored[19:51], stored[51:]
    assert Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw() == public
    assert keys.host.asbytes().endswith(public)


def test_authorized_key_is_the_one_we_log_in_with(keys: RunKeys) -> None:
    kind, blob, _ = keys.authorized.split()
    assert (kind, blob) == ("ssh-rsa", keys.client.get_base64())
    assert keys.client.can_sign()


def test_every_run_has_its_own(keys: RunKeys) -> None:
    other = RunKeys.make()
    assert other.client != keys.client
    assert other.host != keys.host


def test_no_private_key_is_printed(keys: RunKeys) -> None:
    assert "host_key" not in repr(keys)


def heard(told: bytes, directory: Path) -> dict[str, str]:
    """What a guest's shell makes of the word: each file it writes and each program it calls, with its input."""
    length, _, script = told.partition(b"\n")
    assert int(length) == len(script)
    text = script.decode().replace("/root/", f"{directory}/").replace("/etc/dropbear/", f"{directory}/")
    text = text.replace("/tmp/pinpoint_reseed", f"{directory}/reseed")
    reseed = directory / "reseed"
    reseed.write_text(f"#!/bin/sh\ncat >{directory}/seed\n")
    reseed.chmod(0o700)
    stands_in = f'must() {{ "$@" || exit 9; }}\ndate() {{ echo "$2" >{directory}/date; }}\n'
    subprocess.run(["sh", "-c", stands_in + text], check=True, timeout=120)
    reseed.unlink()
    return {path.name: path.read_text(errors="replace") for path in directory.rglob("*") if path.is_file()}


def test_a_guest_that_hears_the_word_has_the_runs_keys(keys: RunKeys, tmp_path: Path) -> None:
    files = heard(word(keys), tmp_path)
    assert files["authorized_keys"] == f"{keys.authorized}\n"
    assert (tmp_path / "dropbear_ed25519_host_key").read_bytes() == keys.host_key
    assert {oct(path.stat().st_mode & 0o777) for path in tmp_path.rglob("*_key*")} == {"0o600"}


def test_a_guest_that_hears_the_word_knows_the_time(keys: RunKeys, tmp_path: Path) -> None:
    assert abs(int(heard(word(keys), tmp_path)["date"].strip().removeprefix("@")) - time.time()) < 60


def test_no_two_guests_hear_the_same_random_numbers(keys: RunKeys, tmp_path: Path) -> None:
    first, second = (heard(word(keys), Path(tempfile.mkdtemp(dir=tmp_path)))["seed"] for _ in range(2))
    assert first != second
    assert len(base64.b64decode(first)) == len(base64.b64decode(second)) == 64


def test_the_word_fits_into_a_terminals_buffer(keys: RunKeys) -> None:
    """The kernel drops what a reader of the terminal has not taken from its 4096 bytes."""
    assert len(word(keys)) < 4096


def test_paramiko_would_refuse_another_host(keys: RunKeys) -> None:
    known = paramiko.HostKeys()
    known.add("[127.0.0.1]:1", keys.host.get_name(), keys.host)
    assert known.check("[127.0.0.1]:1", keys.host)
    assert not known.check("[127.0.0.1]:1", RunKeys.make().host)
