"""Typed records as JSON files: what is written is read back, and what cannot be read is named with the remedy."""

from pathlib import Path

import pytest

from dcnas_harness.errors import CorruptArtefactError
from dcnas_harness.files import write_json
from dcnas_schema.genotype import uniform_genotype
from dcnas_schema.json_files import read_json_record, write_json_record
from dcnas_schema.photo_records import ChosenGenotype

CHOSEN = ChosenGenotype(
    model="model", seed=0, genotype=uniform_genotype("k5_e3", 3), search="small", search_seed=5, drawn=None
)


def test_a_written_record_is_read_back(tmp_path: Path) -> None:
    """A record with strict parts inside, whose tuples are lists in JSON, comes back equal; written twice its bytes are the same."""
    for name in ("a.json", "b.json"):
        write_json_record(tmp_path / name, CHOSEN)
    assert read_json_record(tmp_path / "a.json", ChosenGenotype) == CHOSEN
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b'{"version": 2}', b"[" * 100_000])
def test_what_is_no_such_record_is_named(content: bytes, tmp_path: Path) -> None:
    """A damaged file exits 4; the error says which file, which kind was wanted, and how to get it again."""
    path = tmp_path / "0.json"
    path.write_bytes(content)
    with pytest.raises(
        CorruptArtefactError, match=r"0\.json is no ChosenGenotype[\s\S]*remedy: delete it.*dvc checkout"
    ):
        read_json_record(path, ChosenGenotype)


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    """A key that this version does not know is an error that names it, never passed over."""
    write_json(tmp_path / "0.json", {**CHOSEN.model_dump(mode="json"), "latency": 1.0})
    with pytest.raises(CorruptArtefactError, match="latency"):
        read_json_record(tmp_path / "0.json", ChosenGenotype)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A missing file exits 4 and names the command that makes it; a folder in its place is named too."""
    with pytest.raises(CorruptArtefactError, match=r"none\.json does not exist[\s\S]*dvc repro"):
        read_json_record(tmp_path / "none.json", ChosenGenotype)
    with pytest.raises(CorruptArtefactError, match="is no ChosenGenotype"):
        read_json_record(tmp_path, ChosenGenotype)


def test_the_callers_remedy_is_given(tmp_path: Path) -> None:
    """A file that no pipeline stage made has a remedy of its own, missing or damaged."""
    (tmp_path / "damaged.json").write_text("{", encoding="utf-8")
    for name in ("none.json", "damaged.json"):
        with pytest.raises(CorruptArtefactError, match="remedy: delete the scratch"):
            read_json_record(tmp_path / name, ChosenGenotype, remedy="delete the scratch")
