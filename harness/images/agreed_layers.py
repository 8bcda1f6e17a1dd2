"""The store entries of images that another host has named: on the hosts of a run, those of its controller.

The key of an entry depends on compilers, package lists and, with `--kernel`, paths of the host that computes it. The
processes of a run must mean the same image by a VM's name. So one host names the inputs of its entries, and the others
take the entries from their store, where they arrived, and build none of them.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping, Sequence

from harness.core.errors import HostError
from harness.images import store_entry_manifest
from harness.images.store import Store, key_of

# The inputs are kept as those of a store entry without files: they are too long for an environment variable.
KIND = "image-layers"
# The key of that entry by the name of the VM, as JSON; for this process and for the processes that it starts.
VARIABLE = "PINPOINT_LAYERS"

# Threads add VMs at once.
_turn = threading.Lock()

# The inputs of each store entry of an image, by the kind of the entry, in the order that the image's key has.
Layers = Mapping[str, Sequence[str]]


def key_of_layers(layers: Layers) -> str:
    """Return the key under which hosts keep these inputs."""
    return key_of([_text(layers)])


def keep(layers: Layers, vm: str, store: Store) -> str:
    """Add the inputs to the store; return their key."""
    return store.obtain(KIND, [_text(layers)], vm=vm, build=lambda *_: {}).key


def variables(keys: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that makes `find` return the inputs with these keys, by the name of the VM."""
    return {VARIABLE: json.dumps(dict(keys))} if keys else {}


def use_in_this_process(vm: str, key: str) -> None:
    """Make `find` return the inputs with this key for a VM."""
    with _turn:
        os.environ.update(variables({**_keys(), vm: key}))


def find(vm: str, store: Store) -> dict[str, list[str]] | None:
    """Return the inputs that were named for a VM; None if this process computes them itself. Raises HostError."""
    if not (key := _keys().get(vm)):
        return None
    kept = store_entry_manifest.read(store.root / f"{KIND}-{key}")
    if kept is None or key_of(kept.parts) != key:
        raise HostError(f"the store lacks the inputs of the image of {vm}", where=f"{KIND}-{key}", mend="run again")
    found: dict[str, list[str]] = json.loads(kept.parts[0])
    return found


def _keys() -> dict[str, str]:
    found: dict[str, str] = json.loads(os.environ.get(VARIABLE, "{}"))
    return found


def _text(layers: Layers) -> str:
    return json.dumps({kind: list(parts) for kind, parts in layers.items()})
