"""The manifest of a store entry, written when the entry is complete and compared on each use."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from harness.core.files import sha256_of_strings, write_text

NAME = "manifest.json"
SEAL = "manifest.seal"
TREE = "tree"


@dataclass(frozen=True)
class Manifest:
    """The record of one entry.

    `parts` are the inputs of the build, `facts` the build's figures for the result. `files` maps each file's path in
    the entry to its BLAKE2b hash, or to `-> TARGET` for a symbolic link. `tree` maps the files below `tree/` (thousands
    of small kernel headers) to their size in bytes.
    """

    kind: str
    key: str
    parts: Sequence[str]
    facts: Mapping[str, Any]
    files: Mapping[str, str]
    tree: Mapping[str, int]


def write(directory: Path, kind: str, key: str, parts: Sequence[str], facts: Mapping[str, Any]) -> Manifest:
    """Write the manifest of a finished directory and the manifest's seal into that directory.

    The seal is the digest of the manifest, so that damage of the manifest is detected too.
    """
    files, tree = _stock(directory)
    manifest = Manifest(kind, key, list(parts), dict(facts), files, tree)
    text = json.dumps(vars(manifest), indent=1, sort_keys=True) + "\n"
    write_text(directory / NAME, text)
    write_text(directory / SEAL, sha256_of_strings([text]))
    return manifest


def read(directory: Path) -> Manifest | None:
    """Return the manifest of an entry, or None if it is absent, unreadable or does not match its seal."""
    try:
        text = (directory / NAME).read_text()
        return Manifest(**json.loads(text)) if sha256_of_strings([text]) == (directory / SEAL).read_text() else None
    except (OSError, ValueError, TypeError):
        return None


def find_damage(directory: Path, manifest: Manifest) -> str:
    """Return the damage of an entry, `FILE is missing`, `has changed` or `was added`; empty if all is as recorded.

    An added file is damage: make reads a GNUmakefile before the recorded Makefile, and a compiler finds a header.
    """
    files, tree = _stock(directory)
    for recorded, found in ((manifest.files, files), (manifest.tree, tree)):
        if recorded == found:
            continue
        for name, value in recorded.items():
            if name not in found:
                return f"{name} is missing"
            if found[name] != value:
                return f"{name} has changed"
        return f"{min(found.keys() - recorded.keys())} was added"
    return ""


def find_foreign_damage(directory: Path, kind: str, key: str, key_of: Callable[[Sequence[str]], str]) -> str:
    """Return what is wrong with an entry that was built elsewhere; empty if it is as its manifest records.

    Its key must be that of its inputs, and it must have no file that the manifest does not list.
    """
    try:
        if not read(directory):
            return f"{NAME} is damaged"
        record = TypeAdapter(Manifest).validate_json((directory / NAME).read_bytes())
    except (ValidationError, RecursionError):
        return f"{NAME} is not a manifest"
    if (record.kind, record.key) != (kind, key) or key_of(record.parts) != key:
        return f"{NAME} is of another entry: its inputs have another key"
    files, tree = _stock(directory)
    if more := sorted({*files, *tree} - {*record.files, *record.tree}):
        return f"{more[0]} is not in {NAME}"
    return find_damage(directory, record)


def _stock(directory: Path) -> tuple[dict[str, str], dict[str, int]]:
    """Return the hashes of the files of an entry and the sizes of the files below `tree/`."""
    prefix = len(str(directory)) + 1
    hashed = [path for path in _walk(directory, skip=TREE) if path.name not in (NAME, SEAL)]
    # hashlib releases the interpreter lock on large buffers: files are hashed in parallel, while sizes are read.
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        fingerprints = pool.map(_fingerprint, hashed)
        tree = {path[prefix:]: size for path, size in _sizes(directory / TREE)}
        files = {str(path)[prefix:]: found for path, found in zip(hashed, fingerprints, strict=True)}
    return files, tree


def _walk(directory: Path, skip: str = "") -> Iterator[Path]:
    """Yield files and symbolic links below a directory, sorted; links to directories are not followed."""
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            if entry.name != skip:
                yield from _walk(Path(entry.path))
        else:
            yield Path(entry.path)


def _sizes(directory: Path) -> Iterator[tuple[str, int]]:
    """Yield path and size of each file below a directory that may be absent.

    Paths are strings, which are cheaper than Path objects for thousands of files.
    """
    if not directory.is_dir():
        return
    pending = [str(directory)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                else:
                    yield entry.path, entry.stat(follow_symlinks=False).st_size


def _fingerprint(path: Path) -> str:
    """Return the BLAKE2b hash of a file, or the target of a symbolic link.

    BLAKE2b is twice as fast as SHA-256 on a processor without SHA instructions, and every run hashes the files.
    """
    if path.is_symlink():
        return f"-> {path.readlink()}"
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=32)).hexdigest()
