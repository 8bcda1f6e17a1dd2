"""The key pairs of one run: ours to log in with, and the guests' own, made by us so that it is known beforehand."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import paramiko
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

_ALGORITHM = b"ssh-ed25519"
_RSA_BITS = 2048


@dataclass(frozen=True)
class RunKeys:
    """Both pairs, in memory only: they are gone with the run, and no file of this machine ever holds a private key.

    `host_key` is the guest's as dropbear stores it, `authorized` the line of authorized_keys that lets ours in.
    """

    client: paramiko.PKey
    host: paramiko.PKey
    host_key: bytes = field(repr=False)
    authorized: str

    @classmethod
    def make(cls) -> RunKeys:
        """Fresh keys: the guest's is Ed25519, which it signs with fast; ours is RSA, which it verifies fast.

        On an emulated parisc dropbear 2022.83 takes 0.07 s to verify our RSA signature, 0.43 s for one of Ed25519, out
        of a handshake of 1 s.
        """
        host = Ed25519PrivateKey.generate()
        client = paramiko.RSAKey.from_private_key(_openssh(rsa.generate_private_key(65537, _RSA_BITS)))
        authorized = f"{client.get_name()} {client.get_base64()} pinpoint"
        return cls(client, paramiko.Ed25519Key.from_private_key(_openssh(host)), _dropbear(host), authorized)


def _openssh(key: rsa.RSAPrivateKey | Ed25519PrivateKey) -> io.StringIO:
    """The key as a file that paramiko reads."""
    return io.StringIO(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode())


def _dropbear(key: Ed25519PrivateKey) -> bytes:
    """The key as dropbear stores it (buf_put_ed25519_priv_key() in dropbear 2022.83): algorithm, private and public."""
    private = key.private_bytes_raw()
    return _ssh_string(_ALGORITHM) + _ssh_string(private + key.public_key().public_bytes_raw())


def _ssh_string(content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + content
