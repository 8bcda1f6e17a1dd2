"""Images between stores: each is one artifact of an OCI layout, under its key. Its store entries are the blobs."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from harness.core import paths
from harness.core.errors import UsageError
from harness.core.events import ProgressStep
from harness.images import prepare
from harness.images.build_context import BuildContext
from harness.images.exchange import entry_archive, signature
from harness.images.exchange.oci_layout import (
    REFERENCE,
    TITLE,
    Descriptor,
    ImageManifest,
    LayoutReader,
    LayoutWriter,
)
from harness.images.store import Store
from harness.images.vm_recipe import Recipe

ARTIFACT_TYPE = "application/vnd.pinpoint.image.v1"
_VM = "pinpoint.vm"
_LISTS, _LISTS_TYPE = "package-lists.json", "application/vnd.pinpoint.package-lists.v1+json"
_ENTRY = re.compile(r"([a-z]+(?:-[a-z]+)*)-([0-9a-f]{20})")
_KEY = re.compile(r"[0-9a-f]{20}")
# Names in results are printed; a name from an artifact must be one.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_PLACE = r"^[a-z]+(-[a-z]+)*(\+[a-z]+)*/[a-z0-9-]+$"


class _Answers(BaseModel):
    """What the package lists of one suite and architecture answered."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    when: float = Field(ge=0)
    suites: tuple[str, ...]
    answers: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Imported:
    """One image that was imported: the number of its store entries that were added, and of those that were there."""

    vm: str
    key: str
    added: int
    present: int
    signer: str


def write_image(
    recipe: Recipe, build_context: BuildContext, layout: LayoutWriter, key: Path | None, step: ProgressStep
) -> str:
    """Add the built image of a recipe to a layout, signed if `key` is the file of a key. Return the image's key."""
    entries = prepare.store_entries(recipe, build_context)
    layers = []
    with tempfile.TemporaryDirectory(prefix=".packing-", dir=layout.path) as directory:
        for number, (kind, parts) in enumerate(entries.items()):
            path = build_context.store.entry_path(kind, parts)
            step.publish_progress(path.name, number / len(entries))
            packed = Path(directory) / path.name
            entry_archive.pack(path, packed)
            layers.append(layout.add_file(packed, entry_archive.MEDIA_TYPE, {TITLE: path.name}))
    lists = json.dumps(build_context.packages.used_answers(), sort_keys=True).encode()
    layers.append(layout.add_document(lists, _LISTS_TYPE, {TITLE: _LISTS}))
    manifest = ImageManifest(
        artifact_type=ARTIFACT_TYPE,
        config=layout.add_empty_config(),
        layers=tuple(layers),
        annotations={_VM: recipe.name},
    )
    name = prepare.image_key(recipe, build_context)
    # The signature is written first, so that no reader of the layout finds an image without its signature.
    if key:
        _write_signature(layout, manifest, name, signature.sign(manifest.as_json(), key))
    layout.add_manifest(manifest, name)
    return name


def _write_signature(layout: LayoutWriter, manifest: ImageManifest, name: str, signed: bytes) -> None:
    subject = layout.add_document(manifest.as_json(), manifest.media_type)
    made = layout.add_document(signed, signature.MEDIA_TYPE, {TITLE: f"{name}.sig"})
    layout.add_manifest(
        ImageManifest(
            artifact_type=signature.ARTIFACT_TYPE, config=layout.add_empty_config(), layers=(made,), subject=subject
        ),
        f"{name}.sig",
    )


def read_images(
    layout: LayoutReader, build_context: BuildContext, signers: Path | None, step: ProgressStep
) -> Iterator[Imported]:
    """Add every image of a layout to the store. Raises UsageError at the first image that is not as it should be."""
    found = [each for each in layout.index().manifests if _KEY.fullmatch(each.annotations.get(REFERENCE, ""))]
    if not found:
        raise layout.refusal("has no image of Pinpoint")
    for descriptor in found:
        yield read_image(layout, descriptor, build_context, signers, step)


def find_image(layout: LayoutReader, key: str, vm: str) -> Descriptor:
    """Return the descriptor of the image with a key. Raises UsageError if the layout does not have it."""
    for descriptor in layout.index().manifests:
        if descriptor.annotations.get(REFERENCE) == key:
            return descriptor
    push = f"{paths.PROGRAM} store push DIR --vm {vm}"
    mend = f"build it where it is pushed from, with these recipes and packages: {push}"
    raise UsageError(f"has no image {key} of {vm}", where=str(layout.path), mend=mend)


def read_image(
    layout: LayoutReader, descriptor: Descriptor, build_context: BuildContext, signers: Path | None, step: ProgressStep
) -> Imported:
    """Add the store entries of one image to the store, and its answers of package lists where there are no lists."""
    content = layout.document(descriptor)
    name = descriptor.annotations[REFERENCE]
    manifest = layout.parse(ImageManifest, content, descriptor.path)
    vm = manifest.annotations.get(_VM, "")
    if manifest.artifact_type != ARTIFACT_TYPE or not _NAME.fullmatch(vm):
        raise layout.refusal(f"{descriptor.path} is no image of Pinpoint")
    signer = _signer(layout, descriptor, content, signers) if signers else ""
    counts = {True: 0, False: 0}
    for number, layer in enumerate(manifest.layers):
        title = layer.annotations.get(TITLE, "")
        step.publish_progress(title if _ENTRY.fullmatch(title) else _LISTS, number / len(manifest.layers))
        if title == _LISTS:
            build_context.packages.import_answers(_answers(layout, layer))
        else:
            counts[_adopt(layout, layer, title, build_context.store)] += 1
    return Imported(vm, name, counts[True], counts[False], signer)


def _adopt(layout: LayoutReader, layer: Descriptor, title: str, store: Store) -> bool:
    """Add one store entry; return False if the store has it."""
    entry = _ENTRY.fullmatch(title)
    if not entry or layer.media_type != entry_archive.MEDIA_TYPE:
        raise layout.refusal(f"{layer.path} is no store entry")
    return store.adopt(entry[1], entry[2], fill=partial(_unpack, layout, layer, title))


def _unpack(layout: LayoutReader, layer: Descriptor, title: str, directory: Path) -> None:
    """Copy the blob, compare its digest, and only then unpack it."""
    packed = directory / ".packed"
    layout.copy_blob(layer, packed)
    held = packed.open("rb")
    packed.unlink()
    with held:
        entry_archive.unpack(held, directory, title)


def _answers(layout: LayoutReader, layer: Descriptor) -> Mapping[str, Mapping[str, Any]]:
    try:
        found = TypeAdapter(dict[str, _Answers]).validate_json(layout.document(layer))
    except ValidationError:
        raise layout.refusal(f"{_LISTS} is damaged") from None
    if wrong := [place for place in found if not re.fullmatch(_PLACE, place)]:
        raise layout.refusal(f"{_LISTS} names {wrong[0][:100]!r}")
    return {place: each.model_dump(mode="json") for place, each in found.items()}


def _signer(layout: LayoutReader, descriptor: Descriptor, content: bytes, signers: Path) -> str:
    """Return who signed the image. Raises UsageError if no signature is right."""
    name = f"{descriptor.annotations[REFERENCE]}.sig"
    for each in layout.index().manifests:
        if each.annotations.get(REFERENCE) == name:
            signed = layout.parse(ImageManifest, layout.document(each), each.path)
            if len(signed.layers) != 1:
                raise layout.refusal(f"{each.path} is no signature")
            return signature.signer(content, layout.document(signed.layers[0]), signers)
    raise UsageError(
        f"image {descriptor.annotations[REFERENCE]} is not signed",
        where=str(layout.path),
        mend="sign it with --key where it is exported or pushed",
    )
