"""What a store entry holds, written when it is whole and compared each time it is used."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.core.files import digest, write_text

NAME = "manifest.json"
TREE = "tree"


@dataclass(frozen=True)
class Manifest:
    """The record of one entry.

    `parts` are what went in, `facts` what the build says of the result. `files` maps each file's path in the entry to
    its BLAKE2b hash, or to `-> TARGET` for a symbolic link; `tree` maps the files below `tree/` (kernel headers:
    thousands of small ones) to their size in bytes. `seal` is the digest of all the rest, so that the record itself
    cannot be damaged unseen.
    """

    kind: str
    key: str
    parts: Sequence[str]
    facts: Mapping[str, Any]
    files: Mapping[str, str]
    tree: Mapping[str, int]
    seal: str = ""

    def sealed(self) -> Manifest:
        """This record with its seal."""
        bare = {**asdict(self), "seal": ""}
        return replace(self, seal=digest([json.dumps(bare, sort_keys=True)]))


def write(directory: Path, kind: str, key: str, parts: Sequence[str], facts: Mapping[str, Any]) -> Manifest:
    """Take stock of a finished directory and leave the record in it."""
    files, tree = _stock(directory)
    manifest = Manifest(kind, key, list(parts), dict(facts), files, tree).sealed()
    write_text(directory / NAME, json.dumps(asdict(manifest), indent=1, sort_keys=True) + "\n")
    return manifest


def read(directory: Path) -> Manifest | None:
    """The record of an entry, or None when it is absent, unreadable or does not match its seal."""
    try:
        manifest = Manifest(**json.loads((directory / NAME).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    return manifest if manifest.sealed().seal == manifest.seal else None


def damage(directory: Path, manifest: Manifest) -> str:
    """What is wrong with an entry, as `FILE is missing` or `FILE has changed`; empty when every file is as recorded."""
    files, tree = _stock(directory)
    for recorded, found in ((manifest.files, files), (manifest.tree, tree)):
        for name, value in recorded.items():
            if name not in found:
                return f"{name} is missing"
            if found[name] != value:
                return f"{name} has changed"
    return ""


def _stock(directory: Path) -> tuple[dict[str, str], dict[str, int]]:
    """Hashes of the files of an entry and sizes of those below `tree/`."""
    hashed = [path for path in _walk(directory, skip=TREE) if path.name != NAME]
    # hashlib lets go of the interpreter lock on large buffers: files are hashed side by side.
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        fingerprints = list(pool.map(_fingerprint, hashed))
    files = {str(path.relative_to(directory)): found for path, found in zip(hashed, fingerprints, strict=True)}
    prefix = len(str(directory)) + 1
    tree = {path[prefix:]: size for path, size in _sizes(directory / TREE)}
    return files, tree


def _walk(directory: Path, skip: str = "") -> Iterator[Path]:
    """Files and symbolic links below a directory, sorted; links to directories are not followed."""
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            if entry.name != skip:
                yield from _walk(Path(entry.path))
        else:
            yield Path(entry.path)


def _sizes(directory: Path) -> Iterator[tuple[str, int]]:
    """Path and size of each file below a directory that may not be there; strings, for there are thousands."""
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
    """BLAKE2b, not SHA-256: twice as fast where the processor has no SHA instructions, and every run pays for it."""
    if path.is_symlink():
        return f"-> {path.readlink()}"
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=32)).hexdigest()
