"""What a model on photos is built of, as choose_genotypes wrote it: the file must be that of the model, the seed and the search."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from dcnas_harness.errors import BadInputError, CorruptArtefactError
from dcnas_retrain.genotypes import chosen_genotype
from dcnas_schema.genotype import uniform_genotype
from dcnas_schema.photo_models import PhotoModelSpec
from dcnas_schema.photo_records import ChosenGenotype

GENOTYPE = uniform_genotype("k5_e3", 3)


def spec_of(**values: Any) -> PhotoModelSpec:
    """Return the spec of plain values."""
    spec: PhotoModelSpec = TypeAdapter(PhotoModelSpec).validate_python(values)
    return spec


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a chosen genotype, that of `model` seed 0 from the search `small`, with changes."""

    def to_file(**changes: Any) -> Path:
        found = ChosenGenotype(model="model", seed=0, genotype=GENOTYPE, search="small", search_seed=5, drawn=None)
        path = tmp_path / "0.json"
        path.write_text(found.model_copy(update=changes).model_dump_json(), encoding="utf-8")
        return path

    return to_file


def test_the_files_genotype_is_taken(write: Callable[..., Path]) -> None:
    """Genotype and the seed of its search come from the file."""
    found = chosen_genotype("model", spec_of(kind="d_nas", search="small"), seed=0, path=write())
    assert (found.genotype, found.search_seed) == (GENOTYPE, 5)


def test_what_the_parameters_decide_needs_no_file(write: Callable[..., Path]) -> None:
    """One op everywhere and a net outside the space are built without a file, or with one that says the same."""
    uniform, outside = spec_of(kind="c_nas", uniform={"op": "k5_e3", "expand_ratio": 3.0}), spec_of(kind="resnet18")
    for path in (None, write(search=None, search_seed=None)):
        assert chosen_genotype("model", uniform, seed=0, path=path).genotype == GENOTYPE
    for path in (None, write(search=None, search_seed=None, genotype=None)):
        assert chosen_genotype("model", outside, seed=0, path=path).genotype is None


@pytest.mark.parametrize("source", [{"search": "small"}, {"random": {"like": "small", "ops": 4}}])
def test_a_file_that_is_needed_is_asked_for(source: dict[str, Any]) -> None:
    """Without the file that the model needs, the error names the option that gives it."""
    with pytest.raises(BadInputError, match="--genotype"):
        chosen_genotype("model", spec_of(kind="c_nas", **source), seed=0, path=None)


@pytest.mark.parametrize(
    "changes",
    [{"model": "other"}, {"seed": 1}, {"search": "large"}, {"genotype": None}],
    ids=lambda value: str(list(value)),
)
def test_the_file_of_another_is_refused(write: Callable[..., Path], changes: dict[str, Any]) -> None:
    """A model is not trained by mistake on the net of another model, seed or search, nor on none."""
    with pytest.raises(BadInputError, match=r"0\.json"):
        chosen_genotype("model", spec_of(kind="c_nas", search="small"), seed=0, path=write(**changes))


def test_a_search_is_no_draw(write: Callable[..., Path]) -> None:
    """The search's own genotype is not taken for a random subnet."""
    spec = spec_of(kind="c_nas", random={"like": "small", "ops": 4})
    with pytest.raises(BadInputError, match="built of by the parameters"):
        chosen_genotype("model", spec, seed=0, path=write())


def test_a_damaged_file_is_refused_by_name(write: Callable[..., Path], tmp_path: Path) -> None:
    """A missing file and half a file end as corrupt artefacts."""
    spec = spec_of(kind="c_nas", search="small")
    path = write()
    path.write_bytes(path.read_bytes()[:50])
    for name in ("0.json", "missing.json"):
        with pytest.raises(CorruptArtefactError, match=name):
            chosen_genotype("model", spec, seed=0, path=tmp_path / name)
