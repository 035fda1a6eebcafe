"""Small typed records as JSON files: the one way in and the one way out."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from dcnas_harness.errors import CorruptArtefactError
from dcnas_harness.files import write_json

_Kind = TypeVar("_Kind", bound=BaseModel)


def read_json_record(path: Path, kind: type[_Kind], *, remedy: str | None = None) -> _Kind:
    """
    Read a typed record.

    Args:
        remedy: What to do where the file is missing or damaged; `None` for a file that a pipeline stage made.

    Raises:
        CorruptArtefactError: It is missing, no JSON, or not of this kind.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise CorruptArtefactError(
            f"{path} does not exist.", remedy=remedy or "run: dvc repro (or dvc pull)"
        ) from error
    except (ValidationError, OSError) as error:
        raise CorruptArtefactError(
            f"{path} is no {kind.__name__} that this version can read:\n{error}",
            remedy=remedy or f"delete it, then run: dvc checkout {path} (or dvc repro)",
        ) from error


def write_json_record(path: Path, record: BaseModel) -> None:
    """Write a typed record, atomically, so that `read_json_record` gives it back: the same record, the same bytes."""
    write_json(path, record.model_dump(mode="json"))
