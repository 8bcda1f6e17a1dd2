"""Makes signed Debian repositories for tests."""

from __future__ import annotations

import base64
import hashlib
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

CREATED = 1_600_000_000


def _mpi(number: int) -> bytes:
    """Return a number in OpenPGP's format (RFC 4880, 3.2)."""
    return struct.pack(">H", number.bit_length()) + number.to_bytes((number.bit_length() + 7) // 8)


class Signer:
    """An RSA key that makes OpenPGP signatures (RFC 4880), with just the packets that gpgv needs."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(65537, 2048)
        numbers = self._key.public_key().public_numbers()
        self._body = b"\x04" + struct.pack(">IB", CREATED, 1) + _mpi(numbers.n) + _mpi(numbers.e)
        self._framed = b"\x99" + struct.pack(">H", len(self._body)) + self._body

    @property
    def keyring(self) -> bytes:
        """Return the public key with its user id, as in a keyring file."""
        name = b"Test Archive <archive@test.invalid>"
        certified = self._framed + b"\xb4" + struct.pack(">I", len(name)) + name
        return self._framed + b"\xb4" + bytes([len(name)]) + name + self._signature(0x13, certified)

    def detached(self, content: bytes) -> str:
        """Return an armored signature over `content`."""
        packet = self._signature(0x00, content)
        checksum = base64.b64encode(_crc24(packet).to_bytes(3)).decode()
        body = base64.encodebytes(packet).decode()
        return f"-----BEGIN PGP SIGNATURE-----\n\n{body}={checksum}\n-----END PGP SIGNATURE-----\n"

    def _signature(self, kind: int, content: bytes) -> bytes:
        fingerprint = hashlib.sha1(self._framed).digest()
        hashed = b"\x05\x02" + struct.pack(">I", CREATED + 1)
        head = struct.pack(">BBBBH", 4, kind, 1, 8, len(hashed)) + hashed
        signed = content + head + b"\x04\xff" + struct.pack(">I", len(head))
        issuer = b"\x09\x10" + fingerprint[-8:]
        number = int.from_bytes(self._key.sign(signed, PKCS1v15(), SHA256()))
        body = head + struct.pack(">H", len(issuer)) + issuer + hashlib.sha256(signed).digest()[:2] + _mpi(number)
        return b"\x89" + struct.pack(">H", len(body)) + body


def _crc24(content: bytes) -> int:
    crc = 0xB704CE
    for byte in content:
        crc ^= byte << 16
        for _ in range(8):
            crc = (crc << 1) ^ (0x1864CFB if crc & 0x800000 else 0)
    return crc


@dataclass
class Repository:
    """One suite with one component, for amd64 and arm64, below `root`; call `publish` after adding packages."""

    root: Path
    signer: Signer
    suite: str = "bookworm"
    _packages: list[tuple[str, str]] = field(default_factory=list)
    _sources: list[str] = field(default_factory=list)

    @property
    def uri(self) -> str:
        return f"copy://{self.root}"  # unlike file:, apt copies the lists

    def add(
        self,
        name: str,
        files: Mapping[str, str | bytes],
        depends: str = "",
        version: str = "1.0-1",
        architecture: str = "amd64",
    ) -> Path:
        """Add a binary package; a file given as bytes is executable."""
        tree = self.root / "trees" / name
        (tree / "DEBIAN").mkdir(parents=True, exist_ok=True)
        # dpkg-deb refuses a directory that only its owner can read, as a umask of 077 makes it.
        (tree / "DEBIAN").chmod(0o755)
        control = f"Package: {name}\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: nobody\n"
        control += f"Depends: {depends}\n" if depends else ""
        (tree / "DEBIAN/control").write_text(f"{control}Description: a test\n")
        for place, content in files.items():
            (tree / place).parent.mkdir(parents=True, exist_ok=True)
            (tree / place).write_bytes(content.encode() if isinstance(content, str) else content)
            (tree / place).chmod(0o644 if isinstance(content, str) else 0o755)
        deb = self.root / "pool" / f"{name}_{version}_{architecture}.deb"
        deb.parent.mkdir(exist_ok=True)
        subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, deb], check=True, capture_output=True)
        place = f"Filename: pool/{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {_sha256(deb.read_bytes())}\n"
        self._packages.append((architecture, f"{control}{place}Description: a test\n"))
        return deb

    def add_source(self, name: str, content: str, version: str = "1.0-1") -> None:
        """Add a source package of one tarball."""
        pool = self.root / "pool"
        pool.mkdir(parents=True, exist_ok=True)
        dsc, tarball = pool / f"{name}_{version}.dsc", pool / f"{name}_{version}.tar.gz"
        tarball.write_text(content)
        dsc.write_text(f"Format: 3.0 (native)\nSource: {name}\nVersion: {version}\n")
        lines = [f" {_sha256(path.read_bytes())} {path.stat().st_size} {path.name}\n" for path in (dsc, tarball)]
        self._sources.append(
            f"Package: {name}\nBinary: {name}\nVersion: {version}\nArchitecture: any\nFormat: 3.0 (native)\n"
            f"Directory: pool\nChecksums-Sha256:\n{''.join(lines)}"
        )

    def publish(self) -> None:
        """Write the lists and sign them."""
        suite = self.root / "dists" / self.suite
        indexes = {"main/source/Sources": "\n".join(self._sources)}
        for architecture in ("amd64", "arm64"):
            listed = [text for found, text in self._packages if found in (architecture, "all")]
            indexes[f"main/binary-{architecture}/Packages"] = "\n".join(listed)
        release = f"Origin: Debian\nLabel: Debian\nSuite: stable\nCodename: {self.suite}\nComponents: main\n"
        release += "Architectures: amd64 arm64\nDate: Sat, 01 Jan 2022 00:00:00 UTC\nSHA256:\n"
        for name, text in indexes.items():
            (suite / name).parent.mkdir(parents=True, exist_ok=True)
            (suite / name).write_text(text)
            release += f" {_sha256(text.encode())} {len(text.encode())} {name}\n"
        (suite / "Release").write_text(release)
        (suite / "Release.gpg").write_text(self.signer.detached(release.encode()))


def publish_whole_release(repository: Repository) -> None:
    """Publish a release and its empty updates and security suites at the paths that a mirror uses."""
    repository.publish()
    for root, suite in ((repository.root, "updates"), (Path(f"{repository.root}-security"), "security")):
        root.mkdir(exist_ok=True)
        Repository(root, repository.signer, f"{repository.suite}-{suite}").publish()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
