"""A private, decompressed copy of a user's module: the judged file is the loaded one even if the original changes."""

from __future__ import annotations

import gzip
import lzma
import os
import stat
import zlib
from pathlib import Path

import zstandard

from harness.core.errors import UsageError

# The largest module of Debian's kernels has 9 MB, or 60 MB with debug information.
_MOST_BYTES = 256 << 20
_CHUNK = 1 << 20


def private_copy(file: Path, directory: Path) -> Path:
    """Copy a module into a private directory and return the copy; xz, zstd and gzip files are decompressed.

    Raises UsageError, one line, for a file that is not regular, is too large, or does not decompress.
    """
    content = _unpacked(file, _content(file))
    number = len(list(directory.iterdir()))
    copy = directory / f"{number:02}-{file.name.partition('.ko')[0]}.ko"
    descriptor = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
    return copy


def _content(file: Path) -> bytes:
    """Return all bytes of a regular file. Reading a FIFO or a device could block without end."""
    mend = "give the path of a kernel module"
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(str(error.strerror), where=str(file), mend=mend) from None
    except ValueError as error:
        raise UsageError(str(error), where=repr(str(file)), mend=mend) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        what = "is a directory" if file.is_dir() else "is not a regular file"
        raise UsageError(what, where=str(file), mend=mend)
    with os.fdopen(descriptor, "rb") as stream:
        content = stream.read(_MOST_BYTES + 1)
    return _within(content, file)


def _unpacked(file: Path, content: bytes) -> bytes:
    try:
        if content.startswith(b"\xfd7zXZ"):
            unpacking = lzma.LZMADecompressor()
            unpacked = _within(unpacking.decompress(content, _MOST_BYTES + 1), file)
            return _whole(unpacked, unpacking.eof)
        if content.startswith(b"\x1f\x8b"):
            return _within(_gunzipped(content), file)
        if content.startswith(b"\x28\xb5\x2f\xfd"):
            with zstandard.ZstdDecompressor().stream_reader(content) as stream:
                unpacked = _within(stream.read(_MOST_BYTES + 1), file)
            # The header contains the size unless the archive was made from a pipe.
            size = zstandard.get_frame_parameters(content).content_size
            return _whole(unpacked, size in (zstandard.CONTENTSIZE_UNKNOWN, len(unpacked)))
    except (lzma.LZMAError, zlib.error, gzip.BadGzipFile, EOFError, zstandard.ZstdError, MemoryError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"does not unpack: {reason}", where=str(file), mend="compress it again") from None
    return content


def _gunzipped(content: bytes) -> bytes:
    unpacking = zlib.decompressobj(wbits=31)
    unpacked = unpacking.decompress(content, _MOST_BYTES + 1)
    return _whole(unpacked, unpacking.eof or len(unpacked) > _MOST_BYTES)


def _whole(unpacked: bytes, complete: bool) -> bytes:
    if not complete:
        raise EOFError("the file ends early")
    return unpacked


def _within(content: bytes, file: Path) -> bytes:
    if len(content) > _MOST_BYTES:
        raise UsageError(f"has more than {_MOST_BYTES >> 20} MiB", where=str(file), mend="strip its debug information")
    return content
