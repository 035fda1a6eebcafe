"""The digest that names a run's scratch folder: code, parameters and inputs; another run never takes up its checkpoints."""

import hashlib
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path


def run_digest(parts: Mapping[str, str], packages: Iterable[str]) -> str:
    """
    Return a hex digest of `parts` and of the source code of `packages`.

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
    return digest.hexdigest()
