"""The file of `--hosts`: the hosts that run rows, and how ssh reaches each of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.core import bounded_toml
from harness.core.errors import UsageError
from harness.core.files import read_regular_file

_LARGEST_BYTES = 256 << 10
_MOST_HOSTS = 1000
_MEND = "see docs/hosts.md"

# No option of ssh: it begins with a letter or a digit.
_SshName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@:%-]*$", max_length=200)]
_Path = Annotated[str, Field(pattern=r"^/[^\x00-\x1f\x7f-\x9f]*$", max_length=1000)]


class HostEntry(BaseModel):
    """One host: its name for ssh, the path of Pinpoint's program there, and the limits of what a run may use.

    `cache` is the directory of Pinpoint's cache there, empty for that of the user. Without `cores` and `gib` a run may
    use all that the host has.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    ssh: _SshName
    pinpoint: _Path
    cache: _Path = ""
    cores: int | None = Field(default=None, ge=1, le=1 << 16)
    gib: int | None = Field(default=None, ge=1, le=1 << 20)


class _HostsFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    host: tuple[HostEntry, ...] = Field(strict=False, min_length=1, max_length=_MOST_HOSTS)

    @model_validator(mode="after")
    def _names_each_once(self) -> _HostsFile:
        names = [each.ssh for each in self.host]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name!r} is named twice; give it another name in ssh's own configuration")
        return self


def read(path: Path) -> tuple[HostEntry, ...]:
    """Return the hosts of a file. Raises UsageError, one line with file, key and mend."""
    try:
        content = bounded_toml.loads(read_regular_file(path, _LARGEST_BYTES).decode())
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror or error}", where=str(path), mend=_MEND) from None
    except ValueError as error:
        raise UsageError(f"is not TOML: {' '.join(str(error).split())[:200]}", where=str(path), mend=_MEND) from None
    try:
        return _HostsFile.model_validate(content).host
    except ValidationError as error:
        raise _explained(path, content, error) from None


def _explained(path: Path, content: dict[str, object], error: ValidationError) -> UsageError:
    """Return pydantic's first error; errors about unknown keys come first."""
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    place = [str(part) for part in first["loc"]]
    entries = content.get("host")
    # [[host]] in the file, which has no number for its reader.
    if len(place) > 1 and isinstance(entries, list) and isinstance(entry := entries[int(place[1])], dict):
        place = [f"host {str(entry.get('ssh', int(place[1]) + 1))[:100]!r}", *place[2:]]
    key = " ".join(place)[:300]
    match first["type"]:
        case "extra_forbidden":
            what = f"unknown key: {key}"
        case "missing":
            what = f"missing key: {key}"
        case "value_error":
            what = first["msg"].removeprefix("Value error, ")[:300]
        case _:
            what = f"{key}: {first['msg'].removeprefix('Input ')[:200]}, it is {repr(first['input'])[:100]}"
    return UsageError(what, where=str(path), mend=_MEND)
