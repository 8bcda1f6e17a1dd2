"""The signature at the end of a module's file: a check that the kernel can read it, before a guest is started."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from harness.core.errors import UsageError
from harness.images.image import Image

# struct module_signature, then MODULE_SIG_STRING (include/linux/module_signature.h, 6.1).
_MARK = b"~Module signature appended~\n"
_SIGNATURE = struct.Struct(">5B3sI")
_PKCS7 = 2


def demand_readable_signature(copy: Path, file: Path, image: Image) -> None:
    """Demand that the kernel can read the signature at the end of a module, if there is one; messages name `file`.

    A kernel that checks signatures refuses a module with a damaged one (mod_check_sig(), kernel/module_signature.c,
    6.1). It loads one without a signature, or with an unknown key, unless it enforces signatures. Raises UsageError.
    """
    if image.config.get("CONFIG_MODULE_SIG") != "y":
        return
    with copy.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - len(_MARK) - _SIGNATURE.size))
        end = stream.read()
    if not end.endswith(_MARK) or len(end) < len(_MARK) + _SIGNATURE.size:
        return
    algorithm, hashed, kind, signer, key, padding, length = _SIGNATURE.unpack_from(end)
    left = size - len(_MARK) - _SIGNATURE.size
    if kind == _PKCS7 and length < left and not any((algorithm, hashed, signer, key, *padding)):
        return
    raise UsageError(
        "has a damaged signature at its end, and the kernel refuses to read it",
        where=str(file),
        mend="sign it again, or remove the signature with strip --strip-debug",
    )
