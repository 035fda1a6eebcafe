"""Checkpoints that a kill cannot harm: tensors in safetensors, the rest in JSON that names the tensors' SHA-256 and is written last."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, load_file, save, save_file
from torch import Tensor

from dcnas_harness.errors import CorruptArtefactError
from dcnas_harness.files import atomic_write, sha256_of, write_json

_KEEP = 2
_VERSION = 1
_LENGTH_BYTES = 8


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """
    Write named tensors as safetensors, atomically; the same tensors and metadata give the same bytes.

    Args:
        metadata: JSON values, written as one entry `dcnas`: safetensors writes several entries in random order.

    Raises:
        ValueError: A floating-point tensor holds a value that is not finite: such weights are never written.
    """
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    for name, tensor in held.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{name} holds values that are not finite; it is not written to {path}")
    header = {"dcnas": json.dumps(metadata, sort_keys=True)} if metadata else None
    with atomic_write(path) as temporary:
        save_file(held, temporary, metadata=header)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """
    Read named tensors.

    Raises:
        CorruptArtefactError: The file is missing, not whole safetensors, or holds a value that is not finite.
    """
    remedy = "delete it, then run: dvc checkout (or dvc repro)"
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except FileNotFoundError as error:
        raise CorruptArtefactError(f"{path} does not exist.", remedy="run: dvc repro (or dvc pull)") from error
    except (SafetensorError, OSError) as error:
        raise CorruptArtefactError(f"{path} is not a whole safetensors file: {error}", remedy=remedy) from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CorruptArtefactError(f"{path}: {name} holds values that are not finite.", remedy=remedy)
    return tensors


class CheckpointFolder:
    """
    The checkpoints of one run: `epoch-NNNN.safetensors` and `epoch-NNNN.json`; the newest two are kept.

    The folder belongs to one digest of code, parameters and inputs, so a checkpoint of another run is never taken up.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, epoch: int, state: Mapping[str, Any]) -> Path:
        """
        Write the state after `epoch` epochs and return the path of its JSON.

        Args:
            state: Nested dicts and lists of tensors and JSON values, as `state_dict()` methods return them.
        """
        tensors: dict[str, Tensor] = {}
        tree = _take_tensors(state, "", tensors)
        path = self.folder / f"epoch-{epoch:04d}.json"
        save_tensors(path.with_suffix(".safetensors"), tensors)
        digest = sha256_of(path.with_suffix(".safetensors"))
        body = {"epoch": epoch, "tensors_sha256": digest, "state": tree}
        write_json(path, {"version": _VERSION, "sha256": _digest(body), "body": body})
        for old in self._epochs()[:-_KEEP]:
            old.unlink()  # the JSON first: without it the tensors are no checkpoint
        for tensors_path in self.folder.glob("epoch-*.safetensors"):
            if not tensors_path.with_suffix(".json").exists():
                tensors_path.unlink()
        return path

    def newest(self) -> tuple[int, dict[str, Any]] | None:
        """
        Return epoch and state of the newest checkpoint, or `None` where there is none; a damaged one yields to the one before.

        Raises:
            CorruptArtefactError: There are checkpoints and all are damaged.
        """
        problems = []
        for path in reversed(self._epochs()):
            try:
                found = self._load(path)
            except CorruptArtefactError as error:
                problems.append(str(error))
                continue
            for problem in problems:
                print(f"passed over: {problem} Going on from {path.name}; does the disk fail?", flush=True)
            return found
        if problems:
            raise CorruptArtefactError(
                "No checkpoint is whole:\n" + "\n".join(problems),
                remedy=f"delete {self.folder} to train from the start",
            )
        return None

    def _epochs(self) -> list[Path]:
        return sorted(self.folder.glob("epoch-*.json"), key=lambda path: int(path.stem.removeprefix("epoch-")))

    def _load(self, path: Path) -> tuple[int, dict[str, Any]]:
        tensors_path = path.with_suffix(".safetensors")
        try:
            record = json.loads(path.read_bytes())
            version, written, body = record["version"], record["sha256"], record["body"]
            epoch, digest, tree = body["epoch"], body["tensors_sha256"], body["state"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CorruptArtefactError(f"{path} is not a checkpoint: {error!r}") from error
        if _digest(body) != written:
            raise CorruptArtefactError(f"{path} is damaged: its content does not have the SHA-256 that it names.")
        if version != _VERSION:
            raise CorruptArtefactError(f"{path} was written by another version ({version}; this one reads {_VERSION}).")
        if not tensors_path.is_file() or sha256_of(tensors_path) != digest:
            raise CorruptArtefactError(
                f"{tensors_path} is missing or damaged: its SHA-256 is not the one in {path.name}."
            )
        return epoch, _put_tensors(tree, load_tensors(tensors_path))


def state_to_bytes(state: Mapping[str, Any]) -> bytes:
    """Return a state, as `CheckpointFolder.save` takes it, as bytes: the length of its JSON, the JSON, its tensors as safetensors."""
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_take_tensors(state, "", tensors), allow_nan=False).encode()
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return len(tree).to_bytes(_LENGTH_BYTES) + tree + save(held)


def state_from_bytes(content: bytes) -> dict[str, Any]:
    """Return the state of `state_to_bytes`, its tensors on the CPU."""
    end = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES])
    state: dict[str, Any] = _put_tensors(json.loads(content[_LENGTH_BYTES:end]), load(content[end:]))
    return state


def _digest(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _take_tensors(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        unique = f"{len(tensors)}{name}"  # a key may hold a slash itself
        tensors[unique] = value
        return {"$tensor": unique}
    if isinstance(value, Mapping):  # Adam's state has integers for keys, which JSON has not: pairs keep them
        return {"$items": [[key, _take_tensors(item, f"{name}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_take_tensors(item, f"{name}/{i}", tensors) for i, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):  # a fresh plateau schedule holds an infinity
        return {"$float": str(value)}
    return value


def _put_tensors(tree: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(tree, dict):
        if "$tensor" in tree:
            return tensors[tree["$tensor"]]
        if "$float" in tree:
            return float(tree["$float"])
        return {key: _put_tensors(item, tensors) for key, item in tree["$items"]}
    if isinstance(tree, list):
        return [_put_tensors(item, tensors) for item in tree]
    return tree
