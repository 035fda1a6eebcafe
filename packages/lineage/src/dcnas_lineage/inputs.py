"""The scratch folder of a run, named by a digest of code, parameters and inputs: another run never takes up its checkpoints."""

import hashlib
import shutil
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

from dcnas_schema.provenance import Provenance

_LIBRARIES = ("torchvision", "timm", "pytorch-msssim")
"""Beside torch, where nets, views and losses come from."""
_DIGITS = 24


def run_digest(parts: Mapping[str, str], packages: Iterable[str]) -> str:
    """
    Return the first digits of a hex digest of `parts` and of the source code of `packages`.

    Args:
        parts: Named digests of parameters and inputs.

        packages: Import names whose .py files the result depends on.
    """
    digest = hashlib.sha256()
    for name, value in sorted(parts.items()):
        digest.update(f"{name}={value}\0".encode())
    for package in sorted(packages):
        spec = find_spec(package)
        assert spec is not None, f"{package} is a package of this project"
        assert spec.submodule_search_locations, f"{package} is a package, not a module"
        root = Path(next(iter(spec.submodule_search_locations)))
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{package}/{path.relative_to(root)}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:_DIGITS]


def training_folder(
    siblings: Path, provenance: Provenance, *, code: Iterable[str], execution: str, capability: str, leads: bool
) -> Path:
    """
    Return the folder for the checkpoints of a training, named by everything that its weights depend on; remove its siblings but the newest.

    A run takes up none of other code, parameters, data or library versions; but whoever takes a change back finds what was trained before.

    Args:
        siblings: Folder of all checkpoints of one training and seed; the caller holds its lock.

        code: Import names of the packages that the weights depend on.

        execution: Precision, memory format and form of the nets, in words.

        capability: Vector instructions that torch uses.

        leads: Whether this process may remove anything: one of those that train together.
    """
    card = provenance.device
    parts = {
        **{Path(path).name: sha256 for path, sha256 in provenance.inputs.items()},
        "params": provenance.params_sha256,
        "seed": str(provenance.seed),
        "execution": execution,
        "device": f"{card.kind} {card.name} {card.threads} threads, torch {card.torch} {capability}",
        **({"processes": str(provenance.processes)} if provenance.processes > 1 else {}),
        **{name: provenance.versions.get(name, "") for name in _LIBRARIES},
    }
    folder = siblings / run_digest(parts, code)
    if leads:
        others = (path for path in siblings.glob("*") if path != folder)
        for other in sorted(others, key=lambda path: path.stat().st_mtime)[:-1]:
            shutil.rmtree(other)
    return folder
