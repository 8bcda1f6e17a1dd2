"""Images travel between stores; what was changed on the way is refused in one line; nothing is written outside."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import zstandard

from harness import cli
from harness.core.errors import HostError, UsageError
from harness.core.events import Bus, ProgressStep
from harness.core.files import sha256_of_strings
from harness.images import prepare, private_apt
from harness.images.build_context import BuildContext
from harness.images.debian_packages_by_name import Packages
from harness.images.exchange import entry_archive, image_exchange, oci_layout
from harness.images.exchange.oci_layout import TITLE, ImageManifest, LayoutWriter, read_layout, write_tar
from harness.images.store import Store, key_of
from harness.images.vm_recipe import Recipe, load_all

PARTS = {"kernel": ["a kernel"], "modules": ["some modules"]}
KEY = "0123456789abcdef0123"


def build(directory: Path, _step: ProgressStep) -> Mapping[str, Any]:
    (directory / "vmlinux").write_bytes(os.urandom(5000))
    (directory / "tree/deep").mkdir(parents=True)
    (directory / "tree/deep/a.h").write_text("int a;\n")
    (directory / "tree/script").write_text("#!/bin/sh\n")
    (directory / "tree/script").chmod(0o755)
    (directory / "tree/link").symlink_to("deep/a.h")
    os.utime(directory / "tree/script", (1000.7, 1000.7))
    return {"release": "6.1.0"}


def context_in(cache: Path) -> BuildContext:
    bus = Bus()
    return BuildContext(Store(cache / "store", bus), Packages(cache / "apt", bus), bus)


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Return a recipe whose image has two store entries and a known key."""
    monkeypatch.setattr(prepare, "store_entries", lambda *_: PARTS)
    monkeypatch.setattr(prepare, "image_key", lambda *_: KEY)
    return load_all()["parisc"]


@pytest.fixture
def layout(recipe: Recipe, tmp_path: Path) -> Path:
    """Return a layout directory with one image."""
    return write(recipe, tmp_path)


def write(recipe: Recipe, place: Path, key: Path | None = None) -> Path:
    context = context_in(place / "here")
    for kind, parts in PARTS.items():
        context.store.obtain(kind, parts, vm="x", build=build)
    with context.bus.step("x", "export") as step:
        image_exchange.write_image(recipe, context, LayoutWriter(place / "layout"), key, step)
    return place / "layout"


def import_from(layout: Path, cache: Path, signers: Path | None = None) -> image_exchange.Imported:
    context = context_in(cache)
    with context.bus.step("x", "import") as step:
        (found,) = image_exchange.read_images(read_layout(layout), context, signers, step)
    return found


def entries(store: Path) -> dict[str, tuple[int, bytes | str]]:
    """Return mode and content, or target, of every file in the entries of a store."""
    return {
        str(path.relative_to(store)): (path.lstat().st_mode & 0o111, str(path.readlink()))
        if path.is_symlink()
        else (path.stat().st_mode & 0o111, path.read_bytes())
        for path in store.glob("[a-z]*-*/**/*")
        if path.is_symlink() or path.is_file()
    }


@pytest.mark.parametrize("as_tar", [False, True])
def test_an_image_arrives_as_it_was(layout: Path, tmp_path: Path, as_tar: bool) -> None:
    if as_tar:
        write_tar(layout, tmp_path / "image.tar")
        shutil.rmtree(layout)
        layout = tmp_path / "image.tar"
    found = import_from(layout, tmp_path / "there")
    assert (found.vm, found.key, found.added, found.present, found.signer) == ("parisc", KEY, 2, 0, "")
    there = tmp_path / "there/store"
    assert entries(there) == entries(tmp_path / "here/store")
    assert len(entries(there)) == 12
    script = next(there.glob("kernel-*/tree/script"))
    assert script.stat().st_mtime == 1000
    # The store uses what it was given, and builds nothing.
    kept = context_in(tmp_path / "there").store.obtain("kernel", PARTS["kernel"], vm="x", build=no_build)
    assert kept.facts == {"release": "6.1.0"}
    again = import_from(layout, tmp_path / "there")
    assert (again.added, again.present) == (0, 2)


def no_build(_directory: Path, _step: ProgressStep) -> Mapping[str, Any]:
    raise AssertionError("it was built")


def test_what_is_damaged_in_the_store_is_replaced(layout: Path, tmp_path: Path) -> None:
    import_from(layout, tmp_path / "there")
    next((tmp_path / "there/store").glob("kernel-*/vmlinux")).write_bytes(b"damaged")
    assert import_from(layout, tmp_path / "there").added == 1
    assert entries(tmp_path / "there/store") == entries(tmp_path / "here/store")


def test_the_same_entry_is_the_same_blob(recipe: Recipe, tmp_path: Path) -> None:
    layout = write(recipe, tmp_path)
    before = {path.name: path.read_bytes() for path in (layout / "blobs/sha256").iterdir()}
    write(recipe, tmp_path)
    assert {path.name: path.read_bytes() for path in (layout / "blobs/sha256").iterdir()} == before
    assert len(read_layout(layout).index().manifests) == 1


def blob_of(layout: Path, title: str) -> Path:
    """Return the path of the blob whose title begins so."""
    manifest = json.loads(read_layout(layout).document(read_layout(layout).index().manifests[0]))
    layer = next(each for each in manifest["layers"] if each["annotations"][TITLE].startswith(title))
    return layout / "blobs/sha256" / str(layer["digest"]).removeprefix("sha256:")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def manifest_path(layout: Path) -> Path:
    return layout / read_layout(layout).index().manifests[0].path


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def in_index(layout: Path, old: str, new: str) -> None:
    index = layout / "index.json"
    assert old in index.read_text()
    index.write_text(index.read_text().replace(old, new))


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("harm", "line"),
    [
        (lambda layout: flip(blob_of(layout, "kernel")), "has changed"),
        (lambda layout: flip(blob_of(layout, "package")), "has changed"),
        (lambda layout: flip(manifest_path(layout)), "has changed"),
        (lambda layout: blob_of(layout, "modules").open("ab").write(b"more"), "has changed"),
        (lambda layout: blob_of(layout, "modules").unlink(), "No such file"),
        (lambda layout: link(blob_of(layout, "kernel")), "symbolic links"),
        (lambda layout: link(layout / "blobs"), "blobs is a link"),
        (lambda layout: fifo(blob_of(layout, "kernel")), "not a regular file"),
        (lambda layout: (layout / "index.json").write_text("{"), "index.json is not as OCI defines it"),
        (lambda layout: (layout / "index.json").write_text(" " * (5 << 20)), "index.json is too large"),
        (lambda layout: in_index(layout, "sha256:", "sha256:../../"), "index.json is not as OCI defines it"),
        (lambda layout: in_index(layout, '"size":', '"size":99999999999'), "index.json is not as OCI defines it"),
        (lambda layout: in_index(layout, '"size":', '"size":99999'), "is too large"),
        (lambda layout: in_index(layout, KEY, "latest"), "has no image of Pinpoint"),
        (lambda layout: (layout / "oci-layout").unlink(), "oci-layout: No such file"),
        (lambda layout: (layout / "oci-layout").write_text('{"imageLayoutVersion": "2"}'), "another version"),
    ],
)
def test_a_changed_layout_is_refused(
    layout: Path,
    tmp_path: Path,
    harm: Callable[[Path], object],
    line: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harm(layout)
    monkeypatch.setenv("PINPOINT_CACHE", str(tmp_path / "there"))
    assert cli.main(["store", "import", str(layout)]) == 2
    errors = [text for text in capsys.readouterr().err.splitlines() if text.startswith("pinpoint: ")]
    assert len(errors) == 1
    assert line in errors[0]


def test_a_truncated_tar_file_is_refused(layout: Path, tmp_path: Path) -> None:
    whole = tmp_path / "image.tar"
    write_tar(layout, whole)
    content = whole.read_bytes()
    with tarfile.open(whole) as archive:
        last = archive.getmembers()[-1]
    # What follows the last member is padding.
    for size in range(0, last.offset_data + last.size, 1500):
        whole.write_bytes(content[:size])
        with pytest.raises(UsageError):
            import_from(whole, tmp_path / "there")
    assert not list((tmp_path / "there/store").glob("kernel-*"))


def tar_file(path: Path, *members: tuple[str, bytes, str]) -> Path:
    """Write a tar file with members of these names, types and link targets or contents."""
    with tarfile.open(path, "w") as archive:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                member.linkname = content
            member.size = len(content) if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(content.encode()))
    return path


LAYOUT = ("oci-layout", tarfile.REGTYPE, '{"imageLayoutVersion":"1.0.0"}')


@pytest.mark.parametrize(
    "members",
    [
        (LAYOUT, ("../escaped", tarfile.REGTYPE, "x")),
        (LAYOUT, ("/etc/escaped", tarfile.REGTYPE, "x")),
        (LAYOUT, ("index.json", tarfile.SYMTYPE, "/etc/passwd")),
        (LAYOUT, ("index.json", tarfile.LNKTYPE, "oci-layout")),
        (LAYOUT, ("blobs/sha256/fifo", tarfile.FIFOTYPE, "")),
        (LAYOUT, ("blobs/sha256", tarfile.SYMTYPE, "/tmp")),
        (LAYOUT, LAYOUT),
    ],
)
def test_a_tar_file_of_something_else_is_refused(tmp_path: Path, members: tuple[tuple[str, bytes, str], ...]) -> None:
    with pytest.raises(UsageError, match="is no file of an OCI layout"):
        read_layout(tar_file(tmp_path / "image.tar", *members))


def packed(tmp_path: Path, *members: tuple[str, bytes, str]) -> Path:
    plain = tar_file(tmp_path / "plain.tar", *members)
    path = tmp_path / "packed"
    path.write_bytes(zstandard.ZstdCompressor().compress(plain.read_bytes()))
    return path


@pytest.mark.parametrize(
    ("members", "line"),
    [
        ([("../escaped", tarfile.REGTYPE, "x")], "outside of the entry"),
        ([("/escaped", tarfile.REGTYPE, "x")], "outside of the entry"),
        ([("a/../../escaped", tarfile.REGTYPE, "x")], "outside of the entry"),
        ([("out", tarfile.SYMTYPE, ".."), ("out/escaped", tarfile.REGTYPE, "x")], "directory is no directory"),
        ([("f", tarfile.SYMTYPE, "../escaped"), ("f", tarfile.REGTYPE, "x")], "there twice"),
        ([("f", tarfile.SYMTYPE, "../escaped")], "leads out"),
        ([("f", tarfile.SYMTYPE, "/etc/passwd")], "leads out"),
        ([("f", tarfile.SYMTYPE, "f")], "leads out of the entry, or to itself"),
        # Each link is inside by its text alone; together they lead out.
        (
            [("d", tarfile.DIRTYPE, ""), ("d/s", tarfile.SYMTYPE, ".."), ("f", tarfile.SYMTYPE, "d/s/../escaped")],
            "leads out",
        ),
        ([("a", tarfile.REGTYPE, "x"), ("b", tarfile.LNKTYPE, "a")], "no file, directory or symbolic link"),
        ([("b", tarfile.CHRTYPE, "")], "no file, directory or symbolic link"),
        ([("b", tarfile.FIFOTYPE, "")], "no file, directory or symbolic link"),
    ],
)
def test_a_hostile_entry_writes_nothing_outside(
    tmp_path: Path, members: list[tuple[str, bytes, str]], line: str
) -> None:
    into = tmp_path / "store/entry"
    into.mkdir(parents=True)
    with packed(tmp_path, *members).open("rb") as stream, pytest.raises(UsageError, match=line):
        entry_archive.unpack(stream, into, "kernel-1")
    assert not [path for path in tmp_path.rglob("escaped") if not path.is_relative_to(into)]


def test_an_entry_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry_archive, "LARGEST_ENTRY", 1 << 20)
    path = packed(tmp_path, *((f"{number}", tarfile.REGTYPE, "\0" * (300 << 10)) for number in range(4)))
    assert path.stat().st_size < 10_000
    (tmp_path / "entry").mkdir()
    with path.open("rb") as stream, pytest.raises(UsageError, match="is too large"):
        entry_archive.unpack(stream, tmp_path / "entry", "kernel-1")


def test_a_large_extended_header_is_refused_unread(tmp_path: Path) -> None:
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, 1 << 33
    path = tmp_path / "packed"
    path.write_bytes(zstandard.ZstdCompressor().compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(10240)))
    (tmp_path / "entry").mkdir()
    with path.open("rb") as stream, pytest.raises(UsageError, match="extended header is too large"):
        entry_archive.unpack(stream, tmp_path / "entry", "kernel-1")


def rewritten(layout: Path, change: Callable[[Path], object]) -> None:
    """Change the files of the kernel's entry, and make every hash of the layout that of the changed files."""
    reader = read_layout(layout)
    descriptor = image_exchange.find_image(reader, KEY, "parisc")
    manifest = reader.parse(ImageManifest, reader.document(descriptor), "manifest")
    place = layout.parent / "changed"
    place.mkdir()
    with (layout / manifest.layers[0].path).open("rb") as stream:
        entry_archive.unpack(stream, place, "kernel")
    change(place)
    entry_archive.pack(place, layout.parent / "again")
    writer = LayoutWriter(layout)
    layer = writer.add_file(layout.parent / "again", entry_archive.MEDIA_TYPE, manifest.layers[0].annotations)
    writer.add_manifest(manifest.model_copy(update={"layers": (layer, *manifest.layers[1:])}), KEY)


def reseal(entry: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads((entry / "manifest.json").read_text())
    change(record)
    text = json.dumps(record)
    (entry / "manifest.json").write_text(text)
    (entry / "manifest.seal").write_text(sha256_of_strings([text]))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda entry: (entry / "vmlinux").write_bytes(b"x"), "vmlinux has changed"),
        (lambda entry: (entry / "vmlinux").unlink(), "vmlinux is missing"),
        (lambda entry: (entry / "more").touch(), "more is not in manifest.json"),
        (lambda entry: (entry / "tree/more.h").touch(), "tree/more.h is not in manifest.json"),
        (lambda entry: (entry / "manifest.seal").write_text("0"), "manifest.json is damaged"),
        (lambda entry: reseal(entry, lambda record: record.update(parts=["other"])), "is of another entry"),
        (
            lambda entry: reseal(entry, lambda record: record.update(parts=["other"], key=key_of(["other"]))),
            "is of another entry",
        ),
        (lambda entry: reseal(entry, lambda record: record.update(files=7)), "is not a manifest"),
    ],
)
def test_an_entry_must_be_the_one_of_its_key(
    layout: Path, tmp_path: Path, change: Callable[[Path], object], line: str
) -> None:
    rewritten(layout, change)
    with pytest.raises(UsageError, match=line):
        import_from(layout, tmp_path / "there")
    assert not list((tmp_path / "there/store").glob("[a-z]*-*"))


def test_a_layout_keeps_what_others_pushed(recipe: Recipe, layout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = KEY[::-1]
    monkeypatch.setattr(prepare, "image_key", lambda *_: other)
    write(recipe, layout.parent)
    reader = read_layout(layout)
    assert image_exchange.find_image(reader, KEY, "parisc") != image_exchange.find_image(reader, other, "parisc")
    with pytest.raises(UsageError, match=f"has no image {'0' * 20} of parisc"):
        image_exchange.find_image(reader, "0" * 20, "parisc")


@pytest.fixture
def keys(tmp_path: Path) -> Mapping[str, Path]:
    """Return the key of a person, a stranger's key, and a file of signers with the person's."""
    found = {}
    for name in ("person", "stranger"):
        path = tmp_path / name
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
        found[name] = path
    found["signers"] = tmp_path / "signers"
    public = (tmp_path / "person.pub").read_text()
    found["signers"].write_text(f'me@example.org namespaces="pinpoint-store" {public}')
    return found


def test_a_signature_names_who_signed(recipe: Recipe, tmp_path: Path, keys: Mapping[str, Path]) -> None:
    layout = write(recipe, tmp_path, keys["person"])
    assert import_from(layout, tmp_path / "there", keys["signers"]).signer == "me@example.org"
    write_tar(layout, tmp_path / "image.tar")
    assert import_from(tmp_path / "image.tar", tmp_path / "third", keys["signers"]).signer == "me@example.org"


def test_what_is_not_signed_by_a_signer_is_refused(
    recipe: Recipe, layout: Path, tmp_path: Path, keys: Mapping[str, Path]
) -> None:
    with pytest.raises(UsageError, match="is not signed"):
        import_from(layout, tmp_path / "there", keys["signers"])
    write(recipe, tmp_path, keys["stranger"])
    with pytest.raises(UsageError, match="of no key in the file of signers"):
        import_from(layout, tmp_path / "there", keys["signers"])
    write(recipe, tmp_path, keys["person"])
    # The person's signature stays in the layout, and the image is replaced.
    rewritten(layout, lambda entry: (entry / "vmlinux").write_bytes(b"x"))
    with pytest.raises(UsageError, match="the signature is wrong"):
        import_from(layout, tmp_path / "there", keys["signers"])
    assert not list((tmp_path / "there/store").glob("[a-z]*-*"))


def test_a_key_that_cannot_sign_is_one_line(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "nokey").write_text("no key\n")
    with pytest.raises(UsageError, match="cannot sign"):
        write(recipe, tmp_path, tmp_path / "nokey")
    assert not (tmp_path / "layout/index.json").exists()


ANSWERS = {"bookworm/amd64": {"when": 0.0, "suites": ["bookworm"], "answers": {"package a": {"Version": "1"}}}}


def packages(root: Path) -> Packages:
    return Packages(root, Bus(), ["bookworm"])


def test_answers_of_lists_travel_and_only_another_question_needs_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refreshed: list[bool] = []

    def refuse(_state: private_apt.AptState) -> str:
        refreshed.append(True)
        raise HostError("cannot fetch package lists")

    monkeypatch.setattr(private_apt.AptState, "_refresh", refuse)
    found = {"bookworm/amd64": {**ANSWERS["bookworm/amd64"], "when": time.time()}}
    assert packages(tmp_path).import_answers(found) == 1
    there = packages(tmp_path)
    assert there.version("a", "amd64") == "1"
    assert there.used_answers()["bookworm/amd64"]["answers"] == {"package a": {"Version": "1"}}
    assert not refreshed
    with pytest.raises(HostError, match="cannot fetch package lists"):
        there.version("b", "amd64")
    assert refreshed
    # A state that has lists keeps them.
    (stamp,) = tmp_path.rglob("refreshed.json")
    stamp.write_text(json.dumps({**json.loads(stamp.read_text()), "imported": False}))
    assert packages(tmp_path).import_answers(ANSWERS) == 0
    assert packages(tmp_path).version("a", "amd64") == "1"


def test_old_answers_are_used_where_no_list_can_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_state: private_apt.AptState) -> str:
        raise HostError("cannot fetch package lists")

    monkeypatch.setattr(private_apt.AptState, "_refresh", refuse)
    packages(tmp_path).import_answers(ANSWERS)
    assert packages(tmp_path).version("a", "amd64") == "1"


def test_the_answers_of_two_imports_are_used_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image of a file, and each file, has the answers that its own VM needs."""

    def refuse(_state: private_apt.AptState) -> str:
        raise HostError("cannot fetch package lists")

    monkeypatch.setattr(private_apt.AptState, "_refresh", refuse)
    for when, answers in (
        (1000.0, {"package a": {"Version": "1"}, "package b": {"Version": "1"}}),
        (3000.0, {"package b": {"Version": "3"}, "package c": {"Version": "3"}}),
        (2000.0, {"package c": {"Version": "2"}, "package d": {"Version": "2"}}),
    ):
        found = {"bookworm/amd64": {"when": when, "suites": ["bookworm"], "answers": answers}}
        assert packages(tmp_path).import_answers(found) == 1
    there = packages(tmp_path)
    assert {name: there.version(name, "amd64") for name in "abcd"} == {"a": "1", "b": "3", "c": "3", "d": "2"}
    # The answers are as old as the oldest.
    assert there.used_answers()["bookworm/amd64"]["when"] == 1000.0


@pytest.mark.parametrize("place", ["../../bookworm/amd64", "bookworm/..", "/bookworm/amd64", "bookworm"])
def test_answers_go_nowhere_else(layout: Path, tmp_path: Path, place: str) -> None:
    reader = read_layout(layout)
    manifest = reader.parse(ImageManifest, reader.document(reader.index().manifests[0]), "manifest")
    writer = LayoutWriter(layout)
    content = json.dumps({place: ANSWERS["bookworm/amd64"]}).encode()
    lists = writer.add_document(content, "application/json", {TITLE: "package-lists.json"})
    writer.add_manifest(manifest.model_copy(update={"layers": (lists,)}), KEY)
    with pytest.raises(UsageError, match="names"):
        import_from(layout, tmp_path / "there")


def test_wrong_use_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("text")
    (tmp_path / "empty").mkdir()
    for words in (
        ["import", str(tmp_path / "nothing")],
        ["import", str(tmp_path / "text")],
        ["import", str(tmp_path / "empty")],
        ["export", str(tmp_path), "--vm", "parisc"],
        ["export", str(tmp_path / "x.tar"), "--vm", "vax"],
        ["export", str(tmp_path / "x.tar")],
        ["pull", str(tmp_path / "nothing"), "--vm", "parisc"],
        ["push", str(tmp_path / "text"), "--vm", "parisc"],
    ):
        assert cli.main(["store", *words]) == 2, words
        assert capsys.readouterr().err.count("\n") == 1, words


def test_digests_are_those_of_oci(layout: Path) -> None:
    for path in (layout / "blobs/sha256").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    index = json.loads((layout / "index.json").read_text())
    assert index["schemaVersion"] == 2
    (listed,) = index["manifests"]
    assert listed["mediaType"] == oci_layout.MANIFEST_TYPE
    manifest = json.loads((layout / "blobs/sha256" / listed["digest"].removeprefix("sha256:")).read_text())
    assert manifest["config"] == {
        "mediaType": "application/vnd.oci.empty.v1+json",
        "digest": f"sha256:{hashlib.sha256(b'{}').hexdigest()}",
        "size": 2,
    } | {"annotations": {}}
