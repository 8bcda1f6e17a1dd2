"""Files of one JSON object a line, whole to the last line whatever ends the run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from harness.core.errors import HostError

Line = TypeVar("Line", bound=BaseModel)


def append(path: Path, line: BaseModel, reserve: Path | None = None) -> None:
    """Add one object in a single write, on the disk when this returns.

    A run killed in between leaves at most one torn line, at the end. Raises HostError; where `reserve`, a file that
    only takes room, was there to be given up, the object is kept nevertheless.
    """
    encoded = f"{plain_json(line)}\n".encode()
    try:
        _append(path, encoded)
    except HostError:
        if reserve is not None and reserve.exists():
            reserve.unlink()
            _append(path, encoded)
        raise


def plain_json(content: BaseModel, indent: int | None = None) -> str:
    """JSON in plain characters: what else a guest's words hold stands in it as an escape, whoever prints the file."""
    return json.dumps(content.model_dump(mode="json", by_alias=True), indent=indent)


def _append(path: Path, encoded: bytes) -> None:
    """Add bytes, all or none of them. Raises HostError."""
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
        raise HostError(f"cannot be written: {error.strerror}", where=str(path), mend="see disk and rights") from None
    if written != len(encoded):
        raise HostError("was cut short: the disk is full", where=str(path), mend="make room and run again")


def _take_back(handle: int, written: int) -> None:
    """Remove what was just added to the end of a file, unless another process has added to it since."""
    end = os.lseek(handle, 0, os.SEEK_CUR)
    if os.fstat(handle).st_size == end:
        os.ftruncate(handle, end - written)


def read(path: Path, model: type[Line]) -> list[Line]:
    """Every whole object of the file; a torn one is left out, a file that is not there is empty."""
    if not path.exists():
        return []
    found = []
    for line in path.read_bytes().splitlines():
        try:
            found.append(model.model_validate_json(line))
        except ValidationError:
            continue
    return found
