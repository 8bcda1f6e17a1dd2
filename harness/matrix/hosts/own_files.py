"""What is the user's own on hosts: the tree of --project, the file of --loader, and the recipe of --kernel.

The controller sends the files by the hash of their content. Each host keeps them in its store. The processes of shards
use the copies, and print the controller's paths. The kernel of --kernel is a part of an image, and travels with it.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from harness.core import paths
from harness.core.errors import HostError, UsageError
from harness.core.files import sha256_of_strings
from harness.images import agreed_layers, external_build
from harness.images.build_context import BuildContext
from harness.images.vm_recipe import KERNEL_VARIABLES
from harness.pinning.check_foreign_loader_command import ForeignLoaderProgramAndArguments

KIND = "own-files"
_LARGEST_BYTES = 32 << 20
_TREE, _LOADER = "tree", "loader"
_DIRECTORIES = (paths.RECIPES.name, paths.PROBES.name, paths.CASES.name)

# A file by its path in the copy: its content, and True if it is a program.
Contents = Mapping[str, tuple[bytes, bool]]

_REPLACED = (paths.OWN_TREE, paths.COPIES, *KERNEL_VARIABLES, agreed_layers.VARIABLE)

# One thread at a time uses the own tree of a run: its directory is in an environment variable of the process.
_turn = threading.RLock()


@dataclass(frozen=True)
class OwnFiles:
    """What the controller sends.

    `key` is the hash of the contents. `originals` has the controller's paths, by their names in the copy. `kernel` is
    the environment that names the recipe of --kernel, empty without it. `layers` has the key of the inputs of each
    image (agreed_layers.py), by the name of the VM.
    """

    key: str
    originals: Mapping[str, str]
    kernel: Mapping[str, str] = field(default_factory=dict)
    layers: Mapping[str, str] = field(default_factory=dict)

    @property
    def tree(self) -> str:
        """The controller's path of the own tree, empty without one."""
        return self.originals.get(_TREE, "")

    def copies(self, build_context: BuildContext) -> dict[str, str]:
        """Return this host's copy of each of the controller's paths; the store must have them."""
        entry = build_context.store.entry_path(KIND, [self.key])
        return {original: str((entry / name).resolve()) for name, original in self.originals.items()}


NONE = OwnFiles("", {})


def collect(loader: str | None) -> tuple[OwnFiles, Contents]:
    """Return the files of the own tree, the file of the loader's command, if it is one, and the recipe of --kernel.

    Raises UsageError.
    """
    originals: dict[str, str] = {}
    contents: dict[str, tuple[bytes, bool]] = {}
    if tree := paths.own_tree():
        originals[_TREE] = str(tree)
        for directory in _DIRECTORIES:
            for path in external_build.source_files(tree / directory):
                if "__pycache__" not in path.parts:
                    contents[f"{_TREE}/{path.relative_to(tree)}"] = _read(path)
    command = ForeignLoaderProgramAndArguments.parse_command_line(loader) if loader else None
    if command and command.host_file:
        name = f"{_LOADER}/{command.host_file.name}"
        originals[name], contents[name] = str(command.host_file), _read(command.host_file)
    if sum(len(content) for content, _ in contents.values()) > _LARGEST_BYTES:
        mend = f"leave in {', '.join(_DIRECTORIES)} only what cases, modules and recipes need"
        what = f"more than {_LARGEST_BYTES >> 20} MiB of your own files, which are sent to each host"
        raise UsageError(what, where=str(tree or command), mend=mend)
    kernel = {name: os.environ[name] for name in KERNEL_VARIABLES if name in os.environ}
    return OwnFiles(_key(contents) if originals else "", originals, kernel), contents


def receive(own: OwnFiles, contents: Contents, build_context: BuildContext) -> None:
    """Add the files to the store of this host. Raises HostError if they are not those of the key."""
    if _key(contents) != own.key or any(not _is_inside(name) for name in contents):
        raise HostError("the user's own files arrived damaged")

    def write(entry: Path, _step: object) -> Mapping[str, Any]:
        for name, (content, is_program) in contents.items():
            (entry / name).parent.mkdir(parents=True, exist_ok=True)
            (entry / name).write_bytes(content)
            (entry / name).chmod(0o755 if is_program else 0o644)
        return {}

    build_context.store.obtain(KIND, [own.key], vm="host", build=write)


@contextmanager
def in_use(own: OwnFiles, build_context: BuildContext) -> Iterator[None]:
    """Use what is a run's own in this process, or none of it, and in the processes that it starts meanwhile.

    Only one thread at a time does: the environment is that of the process.
    """
    copies = own.copies(build_context)
    # A store entry must not change: Python would write into it.
    wanted = {paths.COPIES: json.dumps(copies), "PYTHONDONTWRITEBYTECODE": "1"} if copies else {}
    wanted |= {paths.OWN_TREE: copies[own.tree]} if own.tree else {}
    wanted |= {**own.kernel, **agreed_layers.variables(own.layers)}
    names = (*_REPLACED, "PYTHONDONTWRITEBYTECODE")
    with _turn:
        before = {name: os.environ[name] for name in names if name in os.environ}
        try:
            for name in _REPLACED:
                os.environ.pop(name, None)
            os.environ.update(wanted)
            yield
        finally:
            for name in names:
                os.environ.pop(name, None)
            os.environ.update(before)


def _read(path: Path) -> tuple[bytes, bool]:
    try:
        return path.read_bytes(), os.access(path, os.X_OK)
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(path), mend="check its mode") from None


def _key(contents: Contents) -> str:
    parts: list[str] = []
    for name, (content, is_program) in sorted(contents.items()):
        parts += [name, str(is_program), content.hex()]
    return sha256_of_strings(parts)


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts
