"""The key pairs of one run: the client's, and the guests' host key, which the host generates and so already knows."""

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
    """Both key pairs, in memory only: no file of the host contains a private key, and the pairs are lost with the run.

    `dropbear_host_key` is the guest's key in dropbear's file format; `authorized_keys_line` is the client's line for
    authorized_keys.
    """

    client_key: paramiko.PKey
    guest_host_key: paramiko.PKey
    dropbear_host_key: bytes = field(repr=False)
    authorized_keys_line: str

    @classmethod
    def make(cls) -> RunKeys:
        """Generate both key pairs: Ed25519 for the guest and RSA for the client.

        The guest signs fast with Ed25519 and verifies RSA fast. On an emulated parisc, dropbear 2022.83 takes 0.07 s
        to verify an RSA signature and 0.43 s to verify an Ed25519 one, in a handshake of 1 s.
        """
        host = Ed25519PrivateKey.generate()
        client = paramiko.RSAKey.from_private_key(_openssh(rsa.generate_private_key(65537, _RSA_BITS)))
        authorized = f"{client.get_name()} {client.get_base64()} pinpoint"
        return cls(client, paramiko.Ed25519Key.from_private_key(_openssh(host)), _dropbear(host), authorized)


def _openssh(key: rsa.RSAPrivateKey | Ed25519PrivateKey) -> io.StringIO:
    """Return the key as an OpenSSH file for paramiko."""
    return io.StringIO(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode())


def _dropbear(key: Ed25519PrivateKey) -> bytes:
    """Return the key in dropbear's file format: algorithm, private and public key.

    Source: buf_put_ed25519_priv_key() in dropbear 2022.83.
    """
    private = key.private_bytes_raw()
    return _ssh_string(_ALGORITHM) + _ssh_string(private + key.public_key().public_bytes_raw())


def _ssh_string(content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + content
