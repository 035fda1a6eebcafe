"""The genotype of every model on photos and every seed: derived by a search, given by the parameters, or drawn at random."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from dcnas_harness.console import progress
from dcnas_latency.card import cpu_card
from dcnas_latency.files import read_profile
from dcnas_latency.models import draw_subnet, predict_space_net
from dcnas_latency.predictor import Predictor
from dcnas_lineage.collect import collect_provenance
from dcnas_schema.genotype import Genotype, uniform_genotype
from dcnas_schema.json_files import read_json_record, write_json_record
from dcnas_schema.latency import ProfileMetadata
from dcnas_schema.params import Section, digest_of
from dcnas_schema.photo_models import PhotoModelSpec, RandomChoice, SpaceSpec
from dcnas_schema.photo_records import ChosenGenotype, DrawnSubnet
from dcnas_schema.photo_runs import PhotoRunsParams, SearchRunsParams
from dcnas_schema.search_log import DerivedGenotype
from dcnas_schema.section import Name
from dcnas_schema.seeds import derive_seed
from dcnas_schema.space import OP_SETS


class ChoiceSettings(Section):
    """The parameters that the choice depends on."""

    photo_models: dict[Name, PhotoModelSpec]
    photo_runs: PhotoRunsParams
    search_runs: SearchRunsParams


@dataclass(frozen=True, kw_only=True)
class ChoiceJob:
    """What one run of this pipeline stage is asked to do."""

    settings: ChoiceSettings
    derived: Path
    """Folder with SEARCH/SEED/genotype.json of every search."""
    profile: Path
    """The latency profile: a random subnet has the wanted latency by it."""

    @cached_property
    def predictor(self) -> tuple[Predictor, ProfileMetadata]:
        """The predictor and what the profile says of itself; read where a model needs it."""
        entries, metadata = read_profile(self.profile)
        return Predictor.of(entries, metadata), metadata


def choose_genotypes(job: ChoiceJob, out: Path) -> None:
    """
    Write `MODEL/SEED.json` for every model and seed that run, and `provenance.json`, into `out`.

    Raises:
        BadInputError: No subnet has a wanted latency.

        CorruptArtefactError: A derived genotype or the profile is missing or damaged.
    """
    runs = job.settings.photo_runs
    wanted = [(name, seed) for name in runs.models for seed in runs.seeds]
    read: list[Path] = []
    with progress("choose_genotypes", len(wanted)) as report:
        for done, (name, seed) in enumerate(wanted, start=1):
            derived = _derived_path(job, name, seed)
            read += [derived] if derived is not None and derived not in read else []
            chosen = choose_genotype(job, name, seed)
            write_json_record(out / name / f"{seed}.json", chosen)
            report.update(done, name)
    provenance = collect_provenance(
        stage="choose_genotypes",
        item="",
        params_sha256=digest_of(job.settings),
        seed=None,
        inputs=(*read, job.profile),
        device=cpu_card(1, ask_torch=False),  # arithmetic on tables, for which torch need not be imported
    )
    write_json_record(out / "provenance.json", provenance)


def choose_genotype(job: ChoiceJob, name: str, seed: int) -> ChosenGenotype:
    """
    Return what the model `name` is built of with `seed`; a random subnet depends on the seed.

    Raises:
        BadInputError: No subnet has the wanted latency.

        CorruptArtefactError: A file is missing or damaged.
    """
    spec = job.settings.photo_models[name]
    nothing = ChosenGenotype(model=name, seed=seed, genotype=None, search=None, search_seed=None, drawn=None)
    if not isinstance(spec, SpaceSpec):
        return nothing
    if spec.uniform is not None:
        return nothing.model_copy(update={"genotype": uniform_genotype(spec.uniform.op, spec.uniform.expand_ratio)})
    path = _derived_path(job, name, seed)
    derived = None if path is None else read_json_record(path, DerivedGenotype)
    if derived is not None:
        nothing = nothing.model_copy(update={"search": derived.search, "search_seed": derived.seed})
    if spec.random is None:
        assert derived is not None, "a model has one source of its genotype"
        return nothing.model_copy(update={"genotype": derived.genotype})
    genotype, drawn = _drawn(job, spec, spec.random, derived, seed)
    return nothing.model_copy(update={"genotype": genotype, "drawn": drawn})


def _derived_path(job: ChoiceJob, name: str, seed: int) -> Path | None:
    spec = job.settings.photo_models[name]
    search = spec.named_search if isinstance(spec, SpaceSpec) else None
    if search is None:
        return None
    return job.derived / search / str(job.settings.search_runs.seed_for(seed)) / "genotype.json"


def _drawn(
    job: ChoiceJob, spec: SpaceSpec, choice: RandomChoice, derived: DerivedGenotype | None, seed: int
) -> tuple[Genotype, DrawnSubnet]:
    predictor, profile = job.predictor

    def predicted_ms(genotype: Genotype) -> float:
        return predict_space_net(spec, genotype, predictor, profile.setting).ms

    target_ms = choice.target_ms if derived is None else predicted_ms(derived.genotype)
    assert target_ms is not None, "a random subnet has a target"
    subnet = draw_subnet(
        predicted_ms,
        target_ms=target_ms,
        tolerance_pct=choice.tolerance_pct,
        ops=OP_SETS[choice.ops],
        width_multiple=profile.plan.width_multiple,
        generator=np.random.Generator(np.random.PCG64(derive_seed(seed, "genotype"))),
    )
    return subnet.genotype, DrawnSubnet(target_ms=target_ms, predicted_ms=subnet.predicted_ms, draws=subnet.draws)
