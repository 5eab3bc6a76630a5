"""`wazuka doctor`: what this machine has, and what would mend what it lacks."""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import dataclass
from importlib import metadata

import psutil

from wazuka.core.places import cache_folder, config_folder

NEEDED = ("torch", "torchvision", "timm", "onnxruntime", "sklearn", "pydicom", "nibabel", "tifffile", "distributed")
OPTIONAL = {
    "openslide": "whole slides: pip install 'wazuka[wsi]'",
    "opacus": "differential privacy: pip install 'wazuka[dp]'",
}
LEAST_FREE_GB = 5


@dataclass(frozen=True)
class Finding:
    """One line: `ok`, `warning` or `missing`, what was looked at, what was found and what would mend it."""

    outcome: str
    name: str
    text: str


def examine() -> list[Finding]:
    """Look at packages, device, memory, disk, folders and weights."""
    rows = [_package(name) for name in NEEDED]
    for name, use in OPTIONAL.items():
        there = importlib.util.find_spec(name) is not None
        rows.append(Finding("ok" if there else "warning", name, "installed" if there else f"absent; needed for {use}"))
    rows += [_device(), _memory(), *_folders(), _weights()]
    return rows


def _package(name: str) -> Finding:
    if importlib.util.find_spec(name) is None:
        return Finding("missing", name, "not installed; run `pip install wazuka` again")
    distribution = {"sklearn": "scikit-learn"}.get(name, name)
    return Finding("ok", name, metadata.version(distribution))


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return Finding(
            "ok", "device", f"{torch.cuda.get_device_name()}, {free / 2**30:.0f} of {total / 2**30:.0f} GB free"
        )
    return Finding(
        "ok", "device", f"no GPU; {len(os.sched_getaffinity(0))} CPU cores (probes are fast, networks are slow)"
    )


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    text = f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GB free"
    return Finding("ok" if memory.available > 2 * 2**30 else "warning", "memory", text)


def _folders() -> list[Finding]:
    rows = []
    for name, folder in (("cache", cache_folder()), ("configuration", config_folder())):
        existing = next(one for one in [folder, *folder.parents] if one.exists())
        free = shutil.disk_usage(existing).free / 2**30
        writable = os.access(existing, os.W_OK)
        outcome = "missing" if not writable else "ok" if free > LEAST_FREE_GB else "warning"
        state = (
            f"{free:.0f} GB free"
            if writable
            else "not writable; set WAZUKA_CACHE or WAZUKA_CONFIG to a folder of yours"
        )
        rows.append(Finding(outcome, name, f"{folder}: {state}"))
    return rows


def _weights() -> Finding:
    from wazuka.nn import backbones

    there = [str(row["name"]) for row in backbones.listing() if row.get("weights_here") in (True, "yes")]
    if there:
        return Finding("ok", "weights", f"here: {', '.join(there)}")
    return Finding(
        "warning", "weights", "none here yet; they are fetched at first use, or `wazuka backbones add NAME FILE`"
    )
