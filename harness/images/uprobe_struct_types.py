"""A file that describes the structs of kernel/events/uprobes.c, for kernels whose own file has no type information.

`struct uprobe` is defined in that source file and in no header. Debian's 32-bit kernels have no BTF. For them the
definition is copied from the source of the very kernel and compiled, against its headers, with debug information.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.core.errors import BuildError, PinpointError
from harness.core.events import ProgressStep
from harness.core.files import code_sha256
from harness.core.struct_fields import fields_by_struct
from harness.images import external_build
from harness.images.build_context import BuildContext
from harness.images.image import Image
from harness.images.kernel_source_files import obtain_source_files

KIND = "uprobe-structs"
STRUCTS = ("uprobe", "uprobe_consumer", "inode", "super_block", "rb_node", "list_head")
_SOURCE = "kernel/events/uprobes.c"
_NAME = "pinpoint_uprobe_structs"
_DEFINITION = re.compile(r"^struct uprobe \{\n.*?^\};\n", re.MULTILINE | re.DOTALL)
_MODULE = """\
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/rbtree.h>
#include <linux/rwsem.h>
#include <linux/uprobes.h>

{definition}
struct uprobe pinpoint_uprobe;
struct uprobe_consumer pinpoint_uprobe_consumer;
struct inode pinpoint_inode;
struct super_block pinpoint_super_block;

MODULE_DESCRIPTION("Type information of the kernel's uprobes; never loaded");
MODULE_LICENSE("GPL");
"""


def obtain_struct_types(image: Image, build_context: BuildContext) -> Path:
    """Return a file with BTF or DWARF of STRUCTS: the image's vmlinux, or a module that is built for it.

    Raises HostError or RecipeError when the kernel's source cannot be had, BuildError when it lacks the definition.
    """
    try:
        fields_by_struct(image.vmlinux, STRUCTS)
    except PinpointError:
        pass
    else:
        return image.vmlinux
    files = obtain_source_files(image, build_context, [_SOURCE])

    def build(entry: Path, step: ProgressStep) -> Mapping[str, Any]:  # noqa: ARG001 - the interface of the store
        definition = _DEFINITION.search((files / _SOURCE).read_text())
        if definition is None:
            raise BuildError("it defines no struct uprobe", where=_SOURCE, mend="has the kernel moved it?")
        with tempfile.TemporaryDirectory(prefix="pinpoint-structs-") as directory:
            source = Path(directory) / f"{_NAME}.c"
            source.write_text(_MODULE.format(definition=definition[0]))
            (built,) = external_build.build(source, image, build_context, Path(directory), "-g")
            shutil.copyfile(built, entry / f"{_NAME}.ko")
        fields_by_struct(entry / f"{_NAME}.ko", STRUCTS)
        return {}

    parts = [image.key, files.name, code_sha256(Path(__file__))]
    entry = build_context.store.obtain(KIND, parts, vm=image.recipe.name, build=build)
    return entry.path / f"{_NAME}.ko"
