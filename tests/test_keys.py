"""The keys of a run and the archive that brings them into a guest."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import paramiko
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from harness.guest.keys import RunKeys
from harness.images.image import Image

HOST_KEY = "etc/dropbear/dropbear_ed25519_host_key"
AUTHORIZED = "root/.ssh/authorized_keys"


@dataclass(frozen=True)
class Member:
    mode: int
    owner: int
    group: int
    content: bytes


def members(archive: bytes) -> Iterator[tuple[str, Member]]:
    """Read a newc archive as the kernel does: by its header fields, every part padded to 4 bytes."""
    place = 0
    while place < len(archive):
        assert archive[place : place + 6] == b"070701"
        fields = [int(archive[place + 6 + 8 * index :][:8], 16) for index in range(13)]
        name_at = place + 110
        name = archive[name_at : name_at + fields[11] - 1].decode()
        content_at = name_at + fields[11] + -(name_at + fields[11]) % 4
        content = archive[content_at : content_at + fields[6]]
        place = content_at + fields[6] + -fields[6] % 4
        if name == "TRAILER!!!":
            return
        yield name, Member(fields[1], fields[2], fields[3], content)


@pytest.fixture(scope="module")
def keys() -> RunKeys:
    return RunKeys.make()


def test_overlay_files_are_roots_alone(keys: RunKeys) -> None:
    found = dict(members(keys.overlay))
    assert {name: oct(found[name].mode) for name in (HOST_KEY, AUTHORIZED)} == {
        HOST_KEY: "0o100600",
        AUTHORIZED: "0o100600",
    }
    assert {name: oct(found[name].mode) for name in ("root/.ssh", "etc")} == {"root/.ssh": "0o40700", "etc": "0o40755"}
    assert {(member.owner, member.group) for member in found.values()} == {(0, 0)}


def test_directories_come_before_what_is_in_them(keys: RunKeys) -> None:
    names = [name for name, _ in members(keys.overlay)]
    for name in names:
        parent = name.rpartition("/")[0]
        assert not parent or parent in names[: names.index(name)]


def test_host_key_is_the_one_we_pin(keys: RunKeys) -> None:
    stored = dict(members(keys.overlay))[HOST_KEY].content
    assert stored[:15] == b"\0\0\0\x0bssh-ed25519"
    assert stored[15:19] == (64).to_bytes(4, "big")
    private, public = stored[19:51], stored[51:]
    assert Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw() == public
    assert keys.host.asbytes().endswith(public)


def test_authorized_key_is_the_one_we_log_in_with(keys: RunKeys) -> None:
    kind, blob, _ = dict(members(keys.overlay))[AUTHORIZED].content.decode().split()
    assert (kind, blob) == ("ssh-rsa", keys.client.get_base64())
    assert keys.client.can_sign()


def test_every_run_has_its_own(keys: RunKeys) -> None:
    other = RunKeys.make()
    assert other.client != keys.client
    assert other.host != keys.host


def test_no_private_key_is_printed(keys: RunKeys) -> None:
    assert "overlay" not in repr(keys)


@pytest.mark.parametrize("length", [512, 511, 510, 509])
def test_initrd_begins_with_the_image_and_stays_aligned(keys: RunKeys, tmp_path: Path, length: int) -> None:
    shared = tmp_path / "initrd.cpio"
    shared.write_bytes(b"x" * length)
    joined = keys.initrd(cast(Image, SimpleNamespace(initrd=shared)))
    assert joined.startswith(b"x" * length)
    assert joined.endswith(keys.overlay)
    assert (len(joined) - len(keys.overlay)) % 4 == 0


def test_cpio_reads_the_overlay(keys: RunKeys) -> None:
    listed = subprocess.run(["cpio", "-it", "--quiet"], input=keys.overlay, capture_output=True, check=True)
    assert listed.stdout.decode().split()[-1] == HOST_KEY
    assert not listed.stderr


def test_paramiko_would_refuse_another_host(keys: RunKeys) -> None:
    known = paramiko.HostKeys()
    known.add("[127.0.0.1]:1", keys.host.get_name(), keys.host)
    assert known.check("[127.0.0.1]:1", keys.host)
    assert not known.check("[127.0.0.1]:1", RunKeys.make().host)
