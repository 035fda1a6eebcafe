"""The genotype of a net of the search space that is to be trained, as choose_genotypes wrote it."""

from pathlib import Path

from dcnas_harness.errors import BadInputError
from dcnas_schema.genotype import uniform_genotype
from dcnas_schema.json_files import read_json_record
from dcnas_schema.photo_models import PhotoModelSpec, SpaceSpec
from dcnas_schema.photo_records import ChosenGenotype


def chosen_genotype(name: str, spec: PhotoModelSpec, *, seed: int, path: Path | None) -> ChosenGenotype:
    """
    Return what the model `name` is built of; only one that a search or a draw decides needs the file at `path`.

    Raises:
        BadInputError: The model needs a file and none is given, or it is of another model, seed or search.

        CorruptArtefactError: The file is missing or damaged.
    """
    if path is not None:
        return _checked(read_json_record(path, ChosenGenotype), name, spec, seed=seed, path=path)
    genotype = None
    if isinstance(spec, SpaceSpec):
        if spec.uniform is None:
            raise BadInputError(
                f"{name} has the genotype of a search or of a draw.",
                remedy="give --genotype the file that choose_genotypes wrote for this model and seed",
            )
        genotype = uniform_genotype(spec.uniform.op, spec.uniform.expand_ratio)
    return ChosenGenotype(model=name, seed=seed, genotype=genotype, search=None, search_seed=None, drawn=None)


def _checked(found: ChosenGenotype, name: str, spec: PhotoModelSpec, *, seed: int, path: Path) -> ChosenGenotype:
    space = spec if isinstance(spec, SpaceSpec) else None
    wanted = (name, seed, None if space is None else space.named_search)
    if (found.model, found.seed, found.search) != wanted:
        raise BadInputError(
            f"{path} is the genotype of {found.model} seed {found.seed}, search {found.search}; "
            f"wanted is that of {name} seed {seed}, search {wanted[2]}.",
            remedy="give --genotype that model's file, or run: dvc repro choose_genotypes",
        )
    drawn = space is not None and space.random is not None
    if (found.genotype is None) != (space is None) or (found.drawn is not None) != drawn:
        raise BadInputError(
            f"{path} does not hold what {name} is built of by the parameters.", remedy="run: dvc repro choose_genotypes"
        )
    return found
