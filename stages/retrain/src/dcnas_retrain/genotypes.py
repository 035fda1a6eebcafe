"""The genotype of a net of the search space that is to be trained: given by the parameters, derived by a search, or drawn at random."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from dcnas_harness.errors import BadInputError, CorruptArtefactError
from dcnas_latency.files import read_profile
from dcnas_latency.models import draw_subnet, predict_space_net
from dcnas_latency.predictor import Predictor
from dcnas_schema.genotype import Genotype, uniform_genotype
from dcnas_schema.photo_models import PhotoModelSpec, RandomChoice, SpaceSpec
from dcnas_schema.photo_records import DrawnSubnet
from dcnas_schema.search_log import DerivedGenotype
from dcnas_schema.space import OP_SETS
from dcnas_training.seeds import derive_seed


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """A genotype and where it comes from."""

    genotype: Genotype | None
    """`None` for a model outside the search space."""
    search_seed: int | None = None
    drawn: DrawnSubnet | None = None


def choose_genotype(
    name: str, spec: PhotoModelSpec, *, seed: int, genotype_file: Path | None, profile_file: Path | None
) -> Chosen:
    """
    Return the genotype of the model `name`.

    Args:
        seed: Of the run; a random subnet depends on it.

        genotype_file: What derive_genotype wrote for the model's search.

        profile_file: The latency profile; a random subnet has the wanted latency by it.

    Raises:
        BadInputError: A file that the model needs is not given, or is of another search; or no subnet has the wanted latency.

        CorruptArtefactError: A file is missing or damaged.
    """
    if not isinstance(spec, SpaceSpec):
        return Chosen(genotype=None)
    if spec.uniform is not None:
        return Chosen(genotype=uniform_genotype(spec.uniform.op, spec.uniform.expand_ratio))
    derived = _derived(name, spec, genotype_file)
    if spec.random is None:
        assert derived is not None, "a model has one source of its genotype"
        return Chosen(genotype=derived.genotype, search_seed=derived.seed)
    subnet = _drawn(name, spec, spec.random, derived, seed=seed, profile_file=profile_file)
    return Chosen(genotype=subnet[0], search_seed=None if derived is None else derived.seed, drawn=subnet[1])


def read_genotype(path: Path) -> DerivedGenotype:
    """
    Read what derive_genotype wrote.

    Raises:
        CorruptArtefactError: The file is missing or is no derived genotype.
    """
    try:
        return DerivedGenotype.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise CorruptArtefactError(f"{path} does not exist.", remedy="run: dvc repro (or dvc pull)") from error
    except (ValidationError, OSError) as error:
        raise CorruptArtefactError(
            f"{path} is no derived genotype that this version can read:\n{error}",
            remedy=f"delete it, then run: dvc checkout {path} (or dvc repro)",
        ) from error


def _derived(name: str, spec: SpaceSpec, path: Path | None) -> DerivedGenotype | None:
    wanted = spec.named_search
    if wanted is None:
        return None
    if path is None:
        raise BadInputError(
            f"{name} needs the genotype that the search {wanted!r} ends with.",
            remedy="give --genotype the file that derive_genotype wrote",
        )
    found = read_genotype(path)
    if found.search != wanted:
        raise BadInputError(
            f"{path} is the genotype of the search {found.search!r}, not of {wanted!r}, which {name} names.",
            remedy="give --genotype that search's file",
        )
    return found


def _drawn(
    name: str,
    spec: SpaceSpec,
    choice: RandomChoice,
    derived: DerivedGenotype | None,
    *,
    seed: int,
    profile_file: Path | None,
) -> tuple[Genotype, DrawnSubnet]:
    if profile_file is None:
        raise BadInputError(
            f"{name} is a random subnet of a wanted latency, which only a latency profile tells.",
            remedy="give --profile the file that profile_latency wrote",
        )
    entries, metadata = read_profile(profile_file)
    predictor = Predictor.of(entries, metadata)

    def predicted_ms(genotype: Genotype) -> float:
        return predict_space_net(spec, genotype, predictor, metadata.setting).ms

    target_ms = choice.target_ms if derived is None else predicted_ms(derived.genotype)
    assert target_ms is not None, "a random subnet has a target"
    subnet = draw_subnet(
        predicted_ms,
        target_ms=target_ms,
        tolerance_pct=choice.tolerance_pct,
        ops=OP_SETS[choice.ops],
        width_multiple=metadata.plan.width_multiple,
        generator=np.random.Generator(np.random.PCG64(derive_seed(seed, "genotype"))),
    )
    drawn = DrawnSubnet(target_ms=target_ms, predicted_ms=subnet.predicted_ms, draws=subnet.draws)
    return subnet.genotype, drawn
