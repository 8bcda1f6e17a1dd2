"""Signatures of artifacts by ssh-keygen, which many users have a key for already."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from harness.core.deadline import Deadline
from harness.core.errors import HostError, UsageError
from harness.core.process import FinishedProcess, run

ARTIFACT_TYPE = "application/vnd.pinpoint.signature.v1"
MEDIA_TYPE = "application/vnd.pinpoint.signature.ssh.v1"
# A signature that was made for another purpose, such as for a git commit, is not accepted.
_NAMESPACE = "pinpoint-store"
_PROGRAM = "ssh-keygen"
_SECONDS = 120.0


def sign(content: bytes, key: Path) -> bytes:
    """Return the signature of `content`.

    `key` is the file of a private key without a passphrase, or of a public key whose private key ssh-agent holds.
    Raises UsageError if ssh-keygen cannot sign with it.
    """
    with tempfile.TemporaryDirectory(prefix="pinpoint-sign-") as directory:
        document = Path(directory) / "manifest"
        document.write_bytes(content)
        done = _keygen("-Y", "sign", "-f", str(key), "-n", _NAMESPACE, str(document))
        if done.rc:
            raise UsageError(f"cannot sign: {_last_line(done)}", where=str(key), mend="name a key of ssh-keygen")
        return document.with_suffix(".sig").read_bytes()


def signer(content: bytes, signature: bytes, signers: Path) -> str:
    """Return the name, from the file of allowed signers, of the person whose key made the signature.

    `signers` has the format that ssh-keygen(1) describes under ALLOWED SIGNERS. Raises UsageError if the signature is
    of other content, or of a key that the file does not have.
    """
    if not signers.is_file():
        raise UsageError("is not a file", where=str(signers), mend="see ALLOWED SIGNERS in ssh-keygen(1)")
    with tempfile.TemporaryDirectory(prefix="pinpoint-sign-") as directory:
        document, file = Path(directory) / "manifest", Path(directory) / "signature"
        document.write_bytes(content)
        file.write_bytes(signature)
        found = _keygen("-Y", "find-principals", "-s", str(file), "-f", str(signers))
        name = found.output.splitlines()[0] if not found.rc and found.output.strip() else ""
        if not name:
            raise UsageError("the signature is of no key in the file of signers", where=str(signers))
        words = ("-Y", "verify", "-f", str(signers), "-I", name, "-n", _NAMESPACE, "-s", str(file))
        verified = _keygen(*words, document=document)
        if verified.rc:
            raise UsageError(f"the signature is wrong: {_last_line(verified)}", where=name)
    return name


def _keygen(*words: str, document: Path | None = None) -> FinishedProcess:
    if not shutil.which(_PROGRAM):
        raise HostError(f"{_PROGRAM} is missing", mend="install the package openssh-client")
    deadline = Deadline.after(_SECONDS)
    if document is None:
        return run([_PROGRAM, *words], deadline=deadline)
    with document.open("rb") as stream:
        return run([_PROGRAM, *words], deadline=deadline, stdin=stream)


def _last_line(done: FinishedProcess) -> str:
    return done.output.strip().rpartition("\n")[2] or f"{_PROGRAM} ended with status {done.rc}"
