"""The user's configuration file, `~/.config/pinpoint.toml`: defaults of options and of environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core import bounded_toml
from harness.core.errors import UsageError
from harness.core.files import read_regular_file
from harness.images.recipe_files import files_by_name

NAME = "pinpoint.toml"
_LARGEST = 1 << 20
_ACCELERATORS = ("kvm", "tcg")
# The keys that stand for an environment variable.
_VARIABLES = {"mirror": "PINPOINT_MIRROR", "cache": "PINPOINT_CACHE"}
_KEYS = ("vms", "mirror", "cache", "accelerator")


@dataclass(frozen=True)
class UserConfig:
    """What the file sets. Options and environment variables of the same meaning take precedence over it."""

    vms: tuple[str, ...] = ()
    accelerator: str = ""
    mirror: str = ""
    cache: str = ""

    def set_environment_and_get_defaults(self) -> Mapping[str, Any]:
        """Set the environment variables that are not set, and return the commands' default options for click."""
        for key, variable in _VARIABLES.items():
            value = getattr(self, key)
            if value and not os.environ.get(variable):
                os.environ[variable] = value
        vms = {"vms": list(self.vms)} if self.vms else {}
        accelerator = {"accel": self.accelerator} if self.accelerator else {}
        return {"run": {**vms, **accelerator}, "build": vms, "shell": accelerator}


def path() -> Path:
    """Where the file is: below `$XDG_CONFIG_HOME`, else below `~/.config`."""
    named = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(named) if Path(named).is_absolute() else Path("~/.config").expanduser()) / NAME


def read() -> UserConfig:
    """Read the file; without one nothing is set. Raises UsageError, one line."""
    try:
        file = path()
        if not file.exists():
            return UserConfig()
        return _parsed(bounded_toml.loads(read_regular_file(file, _LARGEST).decode()))
    except (OSError, RuntimeError) as error:
        raise _wrong(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except ValueError as error:
        raise _wrong(f"is no TOML: {' '.join(str(error).split())[:200]}") from None


def _parsed(content: Mapping[str, Any]) -> UserConfig:
    unknown = sorted(content.keys() - set(_KEYS))
    if unknown:
        raise _wrong(f"unknown key {unknown[0]!r}", f"one of: {', '.join(_KEYS)}")
    vms = content.get("vms", [])
    if not isinstance(vms, list) or not all(isinstance(name, str) for name in vms):
        raise _wrong("`vms` is no list of names", 'for example vms = ["x86_64-debian"]')
    known = list(files_by_name())
    for name in vms:
        if name not in known:
            raise _wrong(f"`vms`: no VM named {name!r}", f"one of: {', '.join(known)}")
    texts = {key: content.get(key, "") for key in _KEYS if key != "vms"}
    for key, value in texts.items():
        if not isinstance(value, str) or (key in content and not value) or not value.isprintable():
            raise _wrong(f"`{key}` is no text")
    if texts["accelerator"] and texts["accelerator"] not in _ACCELERATORS:
        raise _wrong(f"`accelerator`: {texts['accelerator']!r}", f"one of: {', '.join(_ACCELERATORS)}")
    if texts["cache"]:
        cache = Path(texts["cache"]).expanduser()
        if not cache.is_absolute():
            raise _wrong("`cache` is no absolute path", 'for example cache = "~/pinpoint-cache"')
        texts["cache"] = str(cache)
    return UserConfig(tuple(vms), **texts)


def _wrong(what: str, mend: str = "see docs/command-line.md") -> UsageError:
    return UsageError(what, where=str(path()), mend=mend)
