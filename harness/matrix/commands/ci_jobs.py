"""The jobs of a CI system: one for each VM and shard, with the key of the VM's image for the system's cache."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from harness.images import prepare
from harness.images.build_context import BuildContext
from harness.images.vm_recipe import Recipe

# GitLab's predefined jobs are written like names of users: a job that begins with a dot is a template.
_TEMPLATE, _STAGES = ".pinpoint", ("run", "merge")
_IMAGE = "debian:bookworm"
_KVM = "if [ -e /dev/kvm ]; then chmod 666 /dev/kvm; fi"
_WEEK = "1 week"


def github_matrix(recipes: Sequence[Recipe], build_context: BuildContext, shards: int) -> str:
    """Return the value of a GitHub workflow's `strategy.matrix` as JSON on one line."""
    jobs = [
        {
            "vm": recipe.name,
            "arch": recipe.arch,
            "shard": f"{number}/{shards}",
            # A name of an artifact has no slash.
            "artifact": f"{recipe.name}-{number}-of-{shards}",
            "key": prepare.image_key(recipe, build_context),
        }
        for recipe in recipes
        for number in range(1, shards + 1)
    ]
    return json.dumps({"include": jobs})


def gitlab_pipeline(recipes: Sequence[Recipe], build_context: BuildContext, shards: int) -> str:
    """Return a child pipeline of GitLab as JSON, which is YAML, too: a job for each VM and shard, and the merge."""
    expected = github_matrix(recipes, build_context, shards)
    pipeline: dict[str, Any] = {
        "stages": list(_STAGES),
        _TEMPLATE: {
            "stage": "run",
            "image": _IMAGE,
            "variables": {"PINPOINT_RESULTS": "$CI_PROJECT_DIR/results"},
            "script": [
                _KVM,
                'if [ -e "images/$VM.tar" ]; then ./pinpoint store import "images/$VM.tar"; fi',
                './pinpoint run --vm "$VM" --shard "$SHARD"',
            ],
            "after_script": [
                "mkdir -p images",
                '[ -e "images/$VM.tar" ] || ./pinpoint store export "images/$VM.tar" --vm "$VM"',
            ],
            "artifacts": {
                "when": "always",
                "expire_in": _WEEK,
                "paths": ["results/*-*/"],
                "reports": {"junit": "results/*-*/junit.xml"},
            },
        },
    }
    for job in json.loads(expected)["include"]:
        pipeline[f"{job['vm']} {job['shard']}"] = {
            "extends": _TEMPLATE,
            "variables": {"VM": job["vm"], "SHARD": job["shard"]},
            "cache": {"key": f"pinpoint-{job['key']}", "paths": ["images/"], "when": "always"},
        }
    pipeline["merge"] = {
        "stage": "merge",
        "image": _IMAGE,
        # It runs after failed jobs, and fails for a job that left no results.
        "when": "always",
        "variables": {"EXPECTED": expected},
        "script": [
            'printf "%s" "$EXPECTED" >expected.json',
            "./pinpoint merge --expected expected.json --into merged results/*-*/",
        ],
        "artifacts": {"when": "always", "expire_in": _WEEK, "paths": ["merged/"]},
    }
    return json.dumps(pipeline, indent=2)
