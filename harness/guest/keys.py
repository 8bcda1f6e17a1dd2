"""The key pairs of one run: ours to log in with, and the guests' own, made by us so that it is known beforehand."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass, field

import paramiko
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from harness.images.image import Image

_ALGORITHM = b"ssh-ed25519"
_RSA_BITS = 2048
_DIRECTORY = 0o040000
_FILE = 0o100000
# What init/initramfs.c (6.1) compares the name of an archive's last entry with.
_TRAILER = "TRAILER!!!"


@dataclass(frozen=True)
class RunKeys:
    """Both pairs, in memory only: they are gone with the run, and no file ever holds a private key.

    `overlay` is the cpio archive that brings a guest what it must know to where dropbear reads it.
    """

    client: paramiko.PKey
    host: paramiko.PKey
    overlay: bytes = field(repr=False)

    @classmethod
    def make(cls) -> RunKeys:
        """Fresh keys: the guest's is Ed25519, which it signs with fast; ours is RSA, which it verifies fast.

        On an emulated parisc dropbear 2022.83 takes 0.07 s to verify our RSA signature, 0.43 s for one of Ed25519, out
        of a handshake of 1 s.
        """
        host = Ed25519PrivateKey.generate()
        client = paramiko.RSAKey.from_private_key(_openssh(rsa.generate_private_key(65537, _RSA_BITS)))
        authorized = f"{client.get_name()} {client.get_base64()} pinpoint\n".encode()
        overlay = _archive(_overlay_entries(authorized, _dropbear(host)))
        return cls(client, paramiko.Ed25519Key.from_private_key(_openssh(host)), overlay)

    def initrd(self, image: Image) -> bytes:
        """The image's initial file system with these keys appended.

        The kernel unpacks concatenated archives one after the other (init/initramfs.c, unpack_to_rootfs(), 6.1); each
        begins at a multiple of 4 bytes.
        """
        return _aligned(image.initrd.read_bytes()) + self.overlay


def _openssh(key: rsa.RSAPrivateKey | Ed25519PrivateKey) -> io.StringIO:
    """The key as a file that paramiko reads."""
    return io.StringIO(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode())


def _dropbear(key: Ed25519PrivateKey) -> bytes:
    """The key as dropbear stores it (buf_put_ed25519_priv_key() in dropbear 2022.83): algorithm, private and public."""
    private = key.private_bytes_raw()
    return _ssh_string(_ALGORITHM) + _ssh_string(private + key.public_key().public_bytes_raw())


def _ssh_string(content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + content


def _overlay_entries(authorized_keys: bytes, host_key: bytes) -> Iterable[tuple[str, int, bytes]]:
    """Name, mode and content; directories that the image has already keep these modes."""
    return (
        ("root", _DIRECTORY | 0o700, b""),
        ("root/.ssh", _DIRECTORY | 0o700, b""),
        ("root/.ssh/authorized_keys", _FILE | 0o600, authorized_keys),
        ("etc", _DIRECTORY | 0o755, b""),
        ("etc/dropbear", _DIRECTORY | 0o700, b""),
        ("etc/dropbear/dropbear_ed25519_host_key", _FILE | 0o600, host_key),
    )


def _archive(entries: Iterable[tuple[str, int, bytes]]) -> bytes:
    """A cpio archive in the `newc` format (Documentation/driver-api/early-userspace/buffer-format.rst), all root's."""
    members = [_member(number, *entry) for number, entry in enumerate(entries, start=1)]
    return b"".join([*members, _member(0, _TRAILER, 0, b"")])


def _member(inode: int, name: str, mode: int, content: bytes) -> bytes:
    """One member: thirteen header fields of eight hex digits, the name, the content, each part padded to 4 bytes."""
    owner = group = time = major = minor = node_major = node_minor = checksum = 0
    links, path = 1, name.encode() + b"\0"
    fields = (
        inode,
        mode,
        owner,
        group,
        links,
        time,
        len(content),
        major,
        minor,
        node_major,
        node_minor,
        len(path),
        checksum,
    )
    header = b"070701" + b"".join(b"%08x" % value for value in fields)
    return _aligned(header + path) + _aligned(content)


def _aligned(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)
