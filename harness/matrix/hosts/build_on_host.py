"""What runs on a host for the controller's builds: an image is built there, packed, and read by the controller."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from harness.core import exception_as_pinpoint_error, paths
from harness.core.events import Bus
from harness.images import prepare
from harness.images.build_context import BuildContext
from harness.images.exchange import image_exchange
from harness.images.exchange.oci_layout import LayoutWriter, write_tar
from harness.images.vm_recipe import Recipe

CHUNK = 8 << 20


def build_image(recipe_as_json: str) -> tuple[str, int, str]:
    """Build an image and pack it; return the path of the archive, its size, and an error, which is empty for none."""
    context = BuildContext.in_cache(Bus())
    recipe = Recipe.model_validate_json(recipe_as_json)
    place = paths.cache() / "leaving"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=place))
    try:
        prepare.prepare(recipe, context)
        # Another context, so that the image contains only the look-ups in package lists that its key needs.
        fresh = BuildContext.in_cache(Bus())
        with fresh.bus.step("host", "pack") as step:
            image_exchange.write_image(recipe, fresh, LayoutWriter(scratch / "layout"), None, step)
        write_tar(scratch / "layout", scratch / "image.tar")
        shutil.rmtree(scratch / "layout")
    except Exception as error:
        shutil.rmtree(scratch, ignore_errors=True)
        return "", 0, str(exception_as_pinpoint_error.as_pinpoint_error(error))
    return str(scratch / "image.tar"), (scratch / "image.tar").stat().st_size, ""


def read_chunk(archive: str, offset: int) -> bytes:
    """Return a part of an archive, at most `CHUNK` bytes."""
    with Path(archive).open("rb") as file:
        file.seek(offset)
        return file.read(CHUNK)


def remove_archive(archive: str) -> None:
    """Remove an archive that the controller has read."""
    shutil.rmtree(Path(archive).parent, ignore_errors=True)
