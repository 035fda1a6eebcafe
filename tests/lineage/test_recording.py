"""What a run leaves behind: a record of all that it read and made, or no outputs where something changed under it."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dcnas_harness.errors import BadInputError, CorruptArtefactError, UnfitEnvironmentError
from dcnas_harness.files import md5_of, sha256_of
from dcnas_lineage.recording import Recording, seed_of
from dcnas_schema.json_files import read_json_record
from dcnas_schema.run_record import RunRecord, record_path

PIPELINE = """
stages:
  make:
    cmd: exec python -m dcnas_lineage.run make -- maker --out data
    deps: [code]
    params: [make]
    outs: [data/a, data/runs/make.json]
  train:
    matrix: {seed: [3]}
    cmd: exec python -m dcnas_lineage.run train@${item.seed} -- trainer --seed ${item.seed}
    deps: [code, data/a]
    params: [train]
    outs: [weights, data/runs/train/3.json]
"""
MAKE, TRAIN = ("maker", "--out", "data"), ("trainer", "--seed", "3")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project of two stages, committed."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code/a.py").write_text("a = 1\n")
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    (tmp_path / "params.yaml").write_text("make: {seed: 5, x: 1}\ntrain: {rate: 0.5}\nother: 1\n")
    (tmp_path / ".gitignore").write_text("/data/\n/weights\n/.scratch/\n")
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.invalid"]
    for words in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-q", "-m", "x"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    return tmp_path


def made(root: Path) -> RunRecord:
    """Run the first stage."""
    recording = Recording(root, "make", MAKE)
    (root / "data").mkdir(exist_ok=True)
    (root / "data/a").write_text("data")
    return recording.finish()


def test_a_record_holds_what_was_read_and_made(root: Path) -> None:
    """Command, parameters, seed, hashes on both sides, commit; and it is read back from where the schema says."""
    record = made(root)
    assert read_json_record(root / record_path("make"), RunRecord) == record
    assert (record.argv, record.params, record.seed) == (MAKE, {"make": {"seed": 5, "x": 1}}, 5)
    assert [(out.path, out.sha256, out.md5) for out in record.outs] == [
        ("data/a", sha256_of(root / "data/a"), md5_of(root / "data/a"))
    ]
    assert [file.path for file in record.files_read()] == ["code/a.py"]
    assert (len(record.git.commit or ""), record.git.dirty, record.git.diff_sha256) == (40, (), None)
    assert record.machine.cores >= 1
    assert record.before.load_average is not None


def test_records_are_a_chain(root: Path) -> None:
    """A record names those above it by their bytes and their claim; a claim does not hold times, and holds what is above."""
    first = made(root)
    recording = Recording(root, "train@3", TRAIN)
    (root / "weights").write_text("w")
    record = recording.finish()
    (above,) = record.upstream
    assert (above.run_id, above.claim_sha256) == (first.run_id, first.claim_sha256)
    assert above.sha256 == sha256_of(root / record_path("make"))
    assert made(root).claim_sha256 == first.claim_sha256
    assert record.model_copy(update={"seed": 4}).claim_sha256 != record.claim_sha256
    assert record.model_copy(update={"upstream": ()}).claim_sha256 != record.claim_sha256


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda root: (root / "code/a.py").write_text("a = 2\n"), "code"),
        (lambda root: (root / "code/b.py").write_text(""), "code"),
        (lambda root: (root / "params.yaml").write_text("make: {seed: 5, x: 2}\ntrain: {}\n"), "params.yaml: make"),
    ],
    ids=["code", "new file", "parameter"],
)
def test_a_change_while_it_ran_leaves_no_outputs(root: Path, change: Callable[[Path], object], named: str) -> None:
    """Code or parameters edited meanwhile: exit 3, the thing is named, and neither outputs nor record remain."""
    recording = Recording(root, "make", MAKE)
    (root / "data").mkdir(exist_ok=True)
    (root / "data/a").write_text("data")
    change(root)
    with pytest.raises(UnfitEnvironmentError, match=named):
        recording.finish()
    assert not (root / "data/a").exists()
    assert not (root / record_path("make")).exists()


def test_a_parameter_of_others_may_change(root: Path) -> None:
    """What the stage does not take is not its business."""
    recording = Recording(root, "make", MAKE)
    (root / "data").mkdir(exist_ok=True)
    (root / "data/a").write_text("data")
    (root / "params.yaml").write_text("make: {seed: 5, x: 1}\ntrain: {rate: 0.1}\n")
    assert recording.finish().outs


def test_an_earlier_record_is_gone_when_a_run_begins(root: Path) -> None:
    """A run that fails leaves none that would speak for its outputs."""
    made(root)
    Recording(root, "make", MAKE)
    assert not (root / record_path("make")).exists()


def test_other_arguments_than_those_of_dvc_yaml_are_refused(root: Path) -> None:
    """A record is of the stage of dvc.yaml; anything else runs without one, and the message says how."""
    with pytest.raises(BadInputError, match="python -m maker --out elsewhere"):
        Recording(root, "make", ("maker", "--out", "elsewhere"))


def test_an_input_that_its_maker_did_not_make_is_refused(root: Path) -> None:
    """A file swapped between two stages stops the second one, which would else be recorded as made of it."""
    made(root)
    (root / "data/a").write_text("forged")
    with pytest.raises(CorruptArtefactError, match="data/a is not what the run record of make"):
        Recording(root, "train@3", TRAIN)


def test_a_missing_input_or_output_is_named(root: Path) -> None:
    """Without an input nothing starts; without a promised output there is no record."""
    with pytest.raises(CorruptArtefactError, match="data/a does not exist"):
        Recording(root, "train@3", TRAIN)
    with pytest.raises(CorruptArtefactError, match="data/a does not exist"):
        Recording(root, "make", MAKE).finish()


def test_the_seed_is_the_runs_own() -> None:
    """`--seed` first, else the only one of the parameters; several are none."""
    assert seed_of(["m", "--seed", "7"], {"a": {"seed": 1}}) == 7
    assert seed_of(["m"], {"a": {"seed": 1}, "b": {"x": 2}}) == 1
    assert seed_of(["m"], {"a": {"seed": 1}, "b": {"seed": 2}}) is None


def test_changed_files_of_the_tree_are_listed(root: Path) -> None:
    """A run on a dirty tree says which files differ and keeps the digest of the difference; dvc.lock is left out."""
    (root / "code/a.py").write_text("a = 3\n")
    record = made(root)
    assert record.git.dirty == ("code/a.py",)
    assert len(record.git.diff_sha256 or "") == 64
    assert json.loads((root / record_path("make")).read_text())["version"] == 1
