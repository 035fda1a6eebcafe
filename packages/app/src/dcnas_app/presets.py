"""Presets, and outputs that no preset asks for any more."""

import difflib
import shutil
from collections.abc import Iterable
from pathlib import Path

from dcnas_harness.errors import BadInputError
from dcnas_harness.files import write_text
from dcnas_schema.params import load_params
from dcnas_schema.run_record import RUNS, record_path


def apply_preset(root: Path, name: str, *, force: bool) -> None:
    """
    Replace `root`/params.yaml by presets/`name`.yaml.

    Raises:
        BadInputError: There is no such preset, or params.yaml has changes that would be lost.
    """
    known = _stored(root)
    if name not in known:
        raise BadInputError(f"There is no preset {name!r}.", remedy=f"{_near(name, known)}known are {', '.join(known)}")
    load_params(known[name])
    current = root / "params.yaml"
    stored = {path.read_bytes() for path in known.values()}
    if current.is_file() and current.read_bytes() not in stored and not force:
        raise BadInputError(
            "params.yaml has changes that no preset holds; they would be lost.",
            remedy=f"save it under presets/, or run: dcnas preset {name} --force",
        )
    write_text(current, known[name].read_text(encoding="utf-8"))
    print(f"params.yaml is now presets/{name}.yaml")


def require_known_preset(root: Path, name: str) -> bool:
    """
    Return whether params.yaml differs from the preset that it calls itself after.

    Raises:
        BadInputError: presets/ holds none of this name.
    """
    known = _stored(root)
    if name not in known:
        raise BadInputError(
            f"params.yaml: preset = {name!r}: there is no such preset.",
            remedy=f"{_near(name, known)}known are {', '.join(known)}; a setting of your own: cp params.yaml presets/{name}.yaml",
        )
    return known[name].read_bytes() != (root / "params.yaml").read_bytes()


def _stored(root: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted((root / "presets").glob("*.yaml"))}


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def prune_outputs(root: Path) -> None:
    """Remove data/STAGE/NAME/SEED and records of runs that params.yaml does not name: of models, models on photos, and searches."""
    params = load_params(root / "params.yaml")
    runs, photo_runs, search_runs = params.runs, params.photo_runs, params.search_runs
    for stages, names, seeds in (
        (("retrain", "evaluate"), runs.models, runs.seeds),
        (("retrain_photos", "evaluate_photos"), photo_runs.models, photo_runs.seeds),
        (("search_supernet", "derive_genotype"), search_runs.searches, search_runs.seeds),
    ):
        wanted = {(name, str(seed)) for name in names for seed in seeds}
        for folder in sorted(folder for stage in stages for folder in root.glob(f"data/{stage}/*/*")):
            if (folder.parent.name, folder.name) not in wanted:
                shutil.rmtree(folder)
                print(f"removed {folder.relative_to(root)}")
                if not any(folder.parent.iterdir()):
                    folder.parent.rmdir()
        kept = {record_path(f"{stage}@{name}-{seed}") for stage in stages for name, seed in wanted}
        for record in sorted(record for stage in stages for record in root.glob(f"{RUNS}/{stage}/*.json")):
            if record.relative_to(root).as_posix() not in kept:
                record.unlink()
                print(f"removed {record.relative_to(root)}")
