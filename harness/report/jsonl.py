"""Files with one JSON object on each line. However the run ends, all lines except the last are complete."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from harness.core.errors import HostError, UsageError
from harness.core.files import read_regular_file

Line = TypeVar("Line", bound=BaseModel)
# The results of the full matrix, with the witnesses of every instruction, have some 50 MiB.
_LARGEST = 512 << 20
_ABOVE_ADDRESSES, _ABOVE_MEASUREMENTS = 1 << 64, 1e15


def append(path: Path, line: BaseModel, reserve: Path | None = None) -> None:
    """Append one object in a single write and sync it to the disk.

    A run that is killed leaves at most one incomplete line, at the end. Raises HostError if the write fails. If
    `reserve` exists then, a file that only reserves space, it is deleted and the object is written before the error is
    raised.
    """
    encoded = f"{ascii_json(line)}\n".encode()
    try:
        _append(path, encoded)
    except HostError:
        if reserve is not None and reserve.exists():
            reserve.unlink()
            _append(path, encoded)
        raise


def append_all(path: Path, lines: Iterable[BaseModel]) -> None:
    """Append objects and sync once. Raises HostError if the write fails."""
    if encoded := "".join(f"{ascii_json(line)}\n" for line in lines).encode():
        _append(path, encoded)


def append_file(path: Path, other: Path) -> None:
    """Append the complete lines of another file and sync once. Raises HostError if that fails."""
    try:
        content = other.read_bytes()
    except OSError as error:
        raise HostError(f"cannot be read: {error.strerror}", where=str(other), mend="check disk and rights") from None
    if encoded := content[: content.rfind(b"\n") + 1]:
        _append(path, encoded)


def ascii_json(content: BaseModel, indent: int | None = None) -> str:
    """Return JSON in ASCII: other characters of a guest's output are escaped, so that the file is safe to print."""
    return json.dumps(content.model_dump(mode="json", by_alias=True), indent=indent)


def _append(path: Path, encoded: bytes) -> None:
    """Append all of the bytes, or none and raise HostError."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            written = os.write(handle, encoded)
            if written != len(encoded):
                _take_back(handle, written)
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise HostError(f"cannot be written: {error.strerror}", where=str(path), mend="check disk and rights") from None
    if written != len(encoded):
        raise HostError("was cut short: the disk is full", where=str(path), mend="make room and run again")


def _take_back(handle: int, written: int) -> None:
    """Remove what was just appended to a file, unless another process has appended to it since."""
    end = os.lseek(handle, 0, os.SEEK_CUR)
    if os.fstat(handle).st_size == end:
        os.ftruncate(handle, end - written)


def read(path: Path, model: type[Line]) -> list[Line]:
    """Return every complete object of the file; an incomplete one is left out, a missing file is empty.

    Raises UsageError as `read_with_damage_count` does.
    """
    return read_with_damage_count(path, model)[0]


def read_with_damage_count(path: Path, model: type[Line]) -> tuple[list[Line], int]:
    """Return every object of the file that can be read, and the number of lines that cannot.

    Results may come from somebody else. Objects with an infinite or huge number count as lines that cannot be read.
    Raises UsageError for a file that is not regular, is too large, or is not readable.
    """
    try:
        content = read_regular_file(path, _LARGEST)
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(path), mend="copy the results again") from None
    found, unreadable = [], 0
    for line in content.splitlines():
        try:
            record = model.model_validate_json(line)
        except ValidationError:
            unreadable += 1
            continue
        if _numbers_are_ordinary(vars(record)):
            found.append(record)
        else:
            unreadable += 1
    return found, unreadable


def _numbers_are_ordinary(value: object) -> bool:
    """Return False if a record has a number that no run measures: not finite, or too large to compute with it."""
    if isinstance(value, str):
        return True
    if isinstance(value, int):
        return abs(value) < _ABOVE_ADDRESSES
    if isinstance(value, float):
        return math.isfinite(value) and abs(value) < _ABOVE_MEASUREMENTS
    if isinstance(value, Mapping):
        return all(map(_numbers_are_ordinary, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_numbers_are_ordinary, value))
    return not isinstance(value, BaseModel) or _numbers_are_ordinary(vars(value))
