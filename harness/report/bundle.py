"""A bundle: a directory with everything needed to replay one failed cell, and the evidence read from its guest."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.core import paths
from harness.core.errors import HostError, UsageError
from harness.core.files import sha256, sha256_of_strings
from harness.core.own_tree import own_tree_option
from harness.images.vm_recipe import kernel_options_of_this_run
from harness.report import jsonl
from harness.report.record import Cell, describe_cell
from harness.report.untrusted_bundle_reader import LARGEST_DESCRIPTION, BundleFiles, NotInBundle
from harness.verdict.printk import without_control_codes

ABOUT = "bundle.json"
README = "README.md"
# Bundles of one run share equal files (modules, kallsyms), because a row that fails completely has hundreds of bundles.
_SHARED = ".shared"
_WORTH_SHARING_BYTES = 1 << 16
_LONGEST_NAME = 100


class BundleDescription(BaseModel):
    """The content of `bundle.json`.

    `file` is the case's file in the project; `items` are pytest's names in it: the mutants that the cell failed for,
    then the cell. `options` are the run's options that change what a cell does; `schedule` is the line of the
    schedule that failed, `seed` the seed of all other random choices. `qemu` is the command line. `loop_seconds` is
    the guest's speed, measured by its heartbeat as CPU time of a loop (harness/guest/heartbeat.py); `slide` is in
    bytes; both are None when unknown. `frozen` is the store entry that the guest was thawed from, empty for a booted
    guest. `hashes` are the SHA-256 of the guest's files, of the case's file and of the own tree's modules, `files`
    those of the bundle's own files. `absent` names what could not be read, and why.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    cell: Cell
    file: str
    items: Sequence[str]
    options: Sequence[str]
    schedule: str = ""
    seed: str = ""
    build_id: str = ""
    qemu: Sequence[str] = ()
    accelerator_reason: str = ""
    boot_seconds: float = 0.0
    loop_seconds: float | None = None
    slide: int | None = None
    frozen: str = ""
    hashes: Mapping[str, str] = {}
    files: Mapping[str, str] = {}
    absent: Mapping[str, str] = {}

    @property
    def node_ids(self) -> list[str]:
        """pytest's node ids, from the project."""
        return [f"{paths.case_file(self.file)}::{item}" for item in self.items]


def write_bundle(
    root: Path, about: BundleDescription, pieces: Mapping[str, bytes | Path], final_root: Path | None = None
) -> Path:
    """Write a bundle below `root` from the contents of its files, and return its directory.

    If it is moved afterwards, `final_root` is the root that its README names. It is written under a temporary name and
    renamed, so that a bundle is complete or absent. Raises HostError.
    """
    place = root / about.cell.vm
    try:
        place.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".bundle-", dir=place))
        try:
            return _filled(root, place, scratch, about, pieces, final_root or root)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise HostError(
            f"no bundle can be written: {error.strerror}",
            where=str(error.filename or place),
            mend="check free space and permissions",
        ) from None


def _filled(
    root: Path,
    place: Path,
    scratch: Path,
    about: BundleDescription,
    pieces: Mapping[str, bytes | Path],
    final_root: Path,
) -> Path:
    for name, content in pieces.items():
        _put(root / _SHARED, scratch / name, content.read_bytes() if isinstance(content, Path) else content)
    final = _free(place / _name(about.items[-1]))
    (scratch / README).write_text(_readme(about, final_root / final.relative_to(root), sorted(pieces)))
    own = sorted(path for path in scratch.rglob("*") if path.is_file())
    whole = about.model_copy(update={"files": {str(path.relative_to(scratch)): sha256(path) for path in own}})
    (scratch / ABOUT).write_text(jsonl.ascii_json(whole, indent=1) + "\n")
    scratch.chmod(0o700)
    scratch.rename(final)
    return final


def _put(shared: Path, path: Path, content: bytes) -> None:
    """Write a file of a bundle, or link it to the same file of another bundle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shared.mkdir(exist_ok=True)
    path.write_bytes(content)
    if len(content) < _WORTH_SHARING_BYTES:
        return
    same = shared / sha256(path)
    try:
        os.link(path, same)
    except FileExistsError:
        path.unlink()
        os.link(same, path)
    except OSError:
        return  # a file system without hard links: the bundle keeps its own copy


def _name(item: str) -> str:
    """Return a directory name for pytest's name of a cell: readable, only plain characters, unique."""
    plain = re.sub(r"[^A-Za-z0-9_.]+", "-", item).strip("-.")
    return f"{plain[:_LONGEST_NAME]}-{sha256_of_strings([item])[:6]}"


def _free(path: Path) -> Path:
    """Return the path, or its first free variant with a number, because a cell can fail twice in one run."""
    tried, number = path, 1
    while tried.exists():
        number += 1
        tried = path.with_name(f"{path.name}.{number}")
    return tried


def command(directory: Path) -> str:
    """Return the command that replays a bundle from the project's directory."""
    inside = directory.is_relative_to(paths.PROJECT)
    shown = directory.relative_to(paths.PROJECT) if inside else directory
    return f"{paths.PROGRAM} repro {shown}{own_tree_option()}{kernel_options_of_this_run()}"


def _readme(about: BundleDescription, place: Path, files: Sequence[str]) -> str:
    cell = about.cell
    absent = [without_control_codes(f"- no {name}: {why}") for name, why in about.absent.items()]
    return "\n".join(
        [
            f"# {describe_cell(cell)}: {cell.verdict.value}",
            "",
            *(f"    {line}" for line in (cell.reason or "no reason recorded").splitlines()),
            "",
            "Replay it in Pinpoint's directory:",
            "",
            f"    {command(place)}",
            "",
            "`--times N` replays it N times and counts the same failures, `--shell` opens a shell in the guest at the",
            "failure, `--gdb` debugs its kernel there.",
            "",
            *_beginning(about.frozen),
            *(f"- `{name}`" for name in files),
            *absent,
            "",
        ]
    )


def _beginning(frozen: str) -> list[str]:
    """Return the lines that name the frozen guest from which a replay is thawed."""
    if not frozen:
        return []
    replay = "A replay uses the same one, with the same slide, while the store has it."
    return [f"Its guest was thawed from `{frozen}`. {replay}", ""]


def read(directory: Path) -> BundleDescription:
    """Read a bundle and check the hash of every file. Raises UsageError if the directory is not a complete bundle.

    A bundle may come from an untrusted source: links, devices, FIFOs and excessive sizes are refused.
    """
    where = str(directory)
    try:
        files = BundleFiles(directory)
    except NotADirectoryError:
        raise UsageError("is a file", where=where, mend="name the bundle's directory") from None
    except FileNotFoundError:
        mend = "results.jsonl names the bundles of a run"
        raise UsageError("is not there", where=where, mend=mend) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot be read: {_why(error)}", where=where, mend="name the bundle's directory") from None
    with contextlib.closing(files):
        about = _parsed(_description(files, where), where)
        files.demand_equal_hashes(about.files, where)
    return about


def _description(files: BundleFiles, where: str) -> str:
    """Return the text of `bundle.json`."""
    try:
        return files.read(ABOUT, LARGEST_DESCRIPTION).decode()
    except FileNotFoundError:
        wrong, mend = f"has no {ABOUT}: it is no bundle, or half of one", "results.jsonl names the bundles of a run"
        raise UsageError(wrong, where=where, mend=mend) from None
    except NotInBundle as error:
        raise UsageError(f"{ABOUT} {error}", where=where, mend="do not trust it") from None
    except (OSError, UnicodeDecodeError) as error:
        wrong = f"{ABOUT} cannot be read: {_why(error)}"
        raise UsageError(wrong, where=where, mend="copy the bundle again") from None


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _parsed(text: str, where: str) -> BundleDescription:
    try:
        return BundleDescription.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            raise UsageError(f"{ABOUT} is damaged: {first['msg']}", where=where, mend="copy the bundle again") from None
        key = ".".join(map(str, first["loc"]))[:200] or "the whole"
        raise UsageError(
            f"{ABOUT} is not of this version of Pinpoint: {key}: {first['msg']}",
            where=where,
            mend="replay it with the version that wrote it",
        ) from None
