"""An OCI image layout: JSON documents and blobs, each blob named by its SHA-256. It is a directory or one tar file.

Everything that is read may be hostile: each file must be regular, each size is bounded, each digest is compared.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import tarfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import IO, Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from harness.core import paths
from harness.core.deadline import Deadline
from harness.core.errors import UsageError
from harness.core.files import replacing
from harness.core.locks import hold_lock

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
REFERENCE = "org.opencontainers.image.ref.name"
TITLE = "org.opencontainers.image.title"

_LAYOUT, _INDEX, _VERSION = "oci-layout", "index.json", "1.0.0"
_MEMBER = re.compile(r"(?:oci-layout|index\.json|blobs/sha256/[0-9a-f]{64})")
_DIRECTORIES = {"", "blobs", "blobs/sha256"}
_MOST_MEMBERS = 20_000
# A document is read whole; a blob is copied in chunks.
_LARGEST_DOCUMENT = 4 << 20
LARGEST_BLOB = 4 << 30
_CHUNK = 1 << 20
_LOCK_SECONDS = 600.0
_Document = TypeVar("_Document", bound="_Part")


class _Part(BaseModel):
    """A part of a document; keys of other tools are ignored."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)

    def as_json(self) -> bytes:
        """Return the document as JSON."""
        return self.model_dump_json(by_alias=True, exclude_none=True).encode()


class Descriptor(_Part):
    """The media type, the digest and the size in bytes of one blob."""

    media_type: str
    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0, le=LARGEST_BLOB)]
    artifact_type: str | None = None
    annotations: dict[str, str] = {}

    @property
    def path(self) -> str:
        """The path of the blob in the layout."""
        return f"blobs/sha256/{self.digest.removeprefix('sha256:')}"


class ImageManifest(_Part):
    """An artifact: its blobs, and the artifact that it belongs to, such as what a signature signs."""

    schema_version: Literal[2] = 2
    media_type: Literal["application/vnd.oci.image.manifest.v1+json"] = MANIFEST_TYPE
    artifact_type: str = ""
    config: Descriptor
    layers: tuple[Descriptor, ...] = ()
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}


class Index(_Part):
    """The artifacts of a layout."""

    schema_version: Literal[2] = 2
    media_type: str = INDEX_TYPE
    manifests: tuple[Descriptor, ...] = ()


class LayoutReader(ABC):
    """The files of a layout that somebody else may have written. Each error is a UsageError of one line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def open_regular_file(self, name: str) -> IO[bytes]:
        """Open a file of the layout. Raises UsageError if it is missing or not a regular file."""

    def index(self) -> Index:
        """Return the index."""
        with self.open_regular_file(_INDEX) as stream:
            return self.parse(Index, stream.read(_LARGEST_DOCUMENT + 1), _INDEX)

    def document(self, descriptor: Descriptor) -> bytes:
        """Return the bytes of a JSON document, verified against its digest."""
        if descriptor.size > _LARGEST_DOCUMENT:
            raise self.refusal(f"{descriptor.path} is too large: {descriptor.size} bytes")
        with self.open_regular_file(descriptor.path) as stream:
            content = stream.read(descriptor.size + 1)
        self._compare(descriptor, len(content), hashlib.sha256(content).hexdigest())
        return content

    def copy_blob(self, descriptor: Descriptor, into: Path) -> None:
        """Copy a blob to a file and compare its size and digest."""
        digest, size = hashlib.sha256(), 0
        with self.open_regular_file(descriptor.path) as stream, into.open("wb") as copy:
            # One byte more than the descriptor has: that blob is refused, and no more of it is written.
            while chunk := stream.read(min(_CHUNK, descriptor.size + 1 - size)):
                digest.update(chunk)
                size += len(chunk)
                copy.write(chunk)
        self._compare(descriptor, size, digest.hexdigest())

    def parse(self, kind: type[_Document], content: bytes, name: str) -> _Document:
        """Return a document, or raise UsageError if it is too large or is none of this kind."""
        if len(content) > _LARGEST_DOCUMENT:
            raise self.refusal(f"{name} is too large")
        try:
            return kind.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])[:100]
            raise self.refusal(f"{name} is not as OCI defines it: {key or 'its JSON'}: {first['msg'][:100]}") from None

    def refusal(self, what: str) -> UsageError:
        """Return the error about this layout."""
        return UsageError(what, where=str(self.path), mend="export or push it again")

    def _compare(self, descriptor: Descriptor, size: int, digest: str) -> None:
        if size != descriptor.size or f"sha256:{digest}" != descriptor.digest:
            raise self.refusal(f"{descriptor.path} has changed: its size or SHA-256 is another one")


class _DirectoryReader(LayoutReader):
    def open_regular_file(self, name: str) -> IO[bytes]:
        place = self.path
        for part in Path(name).parent.parts:
            place /= part
            if place.is_symlink():
                raise self.refusal(f"{place.relative_to(self.path)} is a link")
        try:
            handle = os.open(self.path / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise self.refusal(f"{name}: {error.strerror}") from None
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise self.refusal(f"{name} is not a regular file")
        return os.fdopen(handle, "rb")


class _TarReader(LayoutReader):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            self._archive = tarfile.open(path, "r:", tarinfo=BoundedTarInfo)  # noqa: SIM115 - used until the process ends
            self._members = self._checked_members()
        except (tarfile.TarError, EOFError, ValueError):
            raise UsageError("is neither an OCI layout nor a tar file of one", where=str(path)) from None

    def _checked_members(self) -> dict[str, tarfile.TarInfo]:
        found: dict[str, tarfile.TarInfo] = {}
        for member in self._archive:
            name = member.name.removeprefix("./").rstrip("/").removeprefix(".")
            if member.isdir() and name in _DIRECTORIES:
                continue
            if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or not _MEMBER.fullmatch(name) or name in found:
                raise self.refusal(f"{member.name[:100]!r} is no file of an OCI layout")
            if len(found) == _MOST_MEMBERS:
                raise self.refusal(f"more than {_MOST_MEMBERS} files")
            found[name] = member
        return found

    def open_regular_file(self, name: str) -> IO[bytes]:
        member = self._members.get(name)
        stream = self._archive.extractfile(member) if member else None
        if stream is None:
            raise self.refusal(f"{name} is missing")
        return io.BufferedReader(_Whole(stream, self), _CHUNK)


class _Whole(io.RawIOBase):
    """A member of a tar file that reports the end of a truncated file as an error of one line."""

    def __init__(self, stream: IO[bytes], reader: LayoutReader) -> None:
        super().__init__()
        self._stream = stream
        self._reader = reader

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401 - a buffer of any type
        try:
            chunk = self._stream.read(len(buffer))
        except (tarfile.TarError, OSError) as error:
            raise self._reader.refusal(f"is truncated: {error}") from None
        buffer[: len(chunk)] = chunk
        return len(chunk)


class BoundedTarInfo(tarfile.TarInfo):
    """A header of a tar file. One that would make tarfile read a large extended header into memory is refused."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> BoundedTarInfo:
        """Return the header in these 512 bytes."""
        found = super().frombuf(buf, encoding, errors)
        extended = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
        if found.type in (*extended, tarfile.SOLARIS_XHDTYPE) and found.size > _CHUNK:
            raise tarfile.ReadError("an extended header is too large")
        return found


def read_layout(path: Path) -> LayoutReader:
    """Return the reader of a layout. Raises UsageError if there is none."""
    if not path.exists():
        mend = f"name what {paths.PROGRAM} store export or push wrote"
        raise UsageError("does not exist", where=str(path), mend=mend)
    reader = _DirectoryReader(path) if path.is_dir() else _TarReader(path)
    with reader.open_regular_file(_LAYOUT) as stream:
        if f'"{_VERSION}"'.encode() not in stream.read(1024):
            raise reader.refusal(f"{_LAYOUT} has another version than {_VERSION}")
    return reader


class LayoutWriter:
    """Adds artifacts to a layout directory, which is created if it is missing."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError if the directory cannot be made."""
        self.path = path
        try:
            (path / "blobs/sha256").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot be written: {error.strerror}", where=str(path)) from None

    def add_document(self, content: bytes, media_type: str, annotations: dict[str, str] | None = None) -> Descriptor:
        """Add a blob with this content."""
        digest = hashlib.sha256(content).hexdigest()
        found = Descriptor(
            media_type=media_type, digest=f"sha256:{digest}", size=len(content), annotations=annotations or {}
        )
        with replacing(self.path / found.path) as temporary:
            temporary.write_bytes(content)
        return found

    def add_file(self, file: Path, media_type: str, annotations: dict[str, str]) -> Descriptor:
        """Move a file of the same file system to its place as a blob. Raises UsageError if it is too large."""
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        size = file.stat().st_size
        if size > LARGEST_BLOB:
            raise UsageError(f"is larger than {LARGEST_BLOB >> 30} GiB", where=annotations[TITLE])
        found = Descriptor(media_type=media_type, digest=f"sha256:{digest}", size=size, annotations=annotations)
        file.replace(self.path / found.path)
        return found

    def add_manifest(self, manifest: ImageManifest, reference: str) -> Descriptor:
        """Add an artifact under a reference; an artifact that had the reference loses it."""
        made = self.add_document(manifest.as_json(), MANIFEST_TYPE)
        listed = made.model_copy(
            update={"artifact_type": manifest.artifact_type, "annotations": {REFERENCE: reference}}
        )
        with hold_lock(self.path / ".lock", deadline=Deadline.after(_LOCK_SECONDS), on_wait=lambda _: None):
            self._write_layout_version()
            known = _DirectoryReader(self.path).index().manifests if (self.path / _INDEX).exists() else ()
            kept = (each for each in known if each.annotations.get(REFERENCE) != reference)
            with replacing(self.path / _INDEX) as temporary:
                temporary.write_bytes(Index(manifests=(*kept, listed)).as_json())
        return made

    def add_empty_config(self) -> Descriptor:
        """Add the configuration of an artifact that has none."""
        return self.add_document(b"{}", EMPTY_TYPE)

    def _write_layout_version(self) -> None:
        if not (self.path / _LAYOUT).exists():
            with replacing(self.path / _LAYOUT) as temporary:
                temporary.write_text(f'{{"imageLayoutVersion": "{_VERSION}"}}\n')


def write_tar(directory: Path, into: Path) -> None:
    """Write a layout directory as one tar file, which other tools know as an OCI archive."""
    with replacing(into) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(directory.rglob("*")):
            name = str(path.relative_to(directory))
            if path.is_file() and _MEMBER.fullmatch(name):
                member = tarfile.TarInfo(name)
                member.size, member.mode = path.stat().st_size, 0o644
                with path.open("rb") as stream:
                    archive.addfile(member, stream)
