"""The audit of tables on photos: from a cell down to photos, latency profile and search, every byte hashed again."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from ruamel.yaml import YAML

from dcnas_harness.files import md5_of, sha256_of, write_json, write_text
from dcnas_lineage.audit import Link, audit_cells, find_cells, load_cell_map
from dcnas_lineage.lock import md5_as_locked
from dcnas_schema.genotype import uniform_genotype
from dcnas_schema.parquet import with_metadata, write_parquet
from dcnas_schema.photo_records import PHOTO_TRAINING_LOG, ChosenGenotype, PhotoTrainingMetadata
from dcnas_schema.provenance import Provenance
from dcnas_schema.search_log import ArchitectureRecord
from dcnas_schema.space import OPS, PLACES, width_bounds
from dcnas_tabulate.photo_job import PhotoSources

Workshop = Any
MODEL, SEARCH = "dc_nas_s", "noisy_s"
PHOTOS, PROFILE, REFERENCE = (
    "data/generate_data/photos",
    "data/profile_latency/profile.parquet",
    "data/reference/paper_tables.csv",
)
FILES = {
    "record": f"data/evaluate_photos/{MODEL}/0/record.parquet",
    "log": f"data/retrain_photos/{MODEL}/0/log.parquet",
    "weights": f"data/retrain_photos/{MODEL}/0/weights.safetensors",
    "chosen": f"data/genotypes/{MODEL}/0.json",
    "genotype": f"data/derive_genotype/{SEARCH}/0/genotype.json",
    "architecture": f"data/search_supernet/{SEARCH}/0/architecture.json",
    "search": f"data/search_supernet/{SEARCH}/0/search.parquet",
    "test": f"{PHOTOS}/test.parquet",
    "validation": f"{PHOTOS}/validation.parquet",
    "profile": PROFILE,
}


class Project:
    """A project of one model and one search, made by hand from the photos to the tables, with the dvc.lock that DVC would write."""

    def __init__(self, workshop: Workshop, provenance: Callable[..., Provenance], reference: Path) -> None:
        self.root, self._workshop, self._provenance = workshop.root, workshop, provenance
        self._stages: dict[str, tuple[list[str], list[str]]] = {}
        self._given(reference, workshop.sources.photos, workshop.sources.profile)

    def _given(self, reference: Path, photos: Path, profile: Path) -> None:
        for path, source in [
            (REFERENCE, reference),
            (PROFILE, profile),
            *((f"{PHOTOS}/{split}.parquet", photos / f"{split}.parquet") for split in ("train", "validation", "test")),
        ]:
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_bytes(source.read_bytes())
        self._stages["generate_photos"] = (
            [],
            [f"{PHOTOS}/{split}.parquet" for split in ("train", "validation", "test")],
        )
        self._stages["profile_latency"] = ([], [PROFILE])

    def make(self) -> None:
        """Make everything, each stage from the files before it."""
        self._search()
        self._train()
        self._stages[f"evaluate_photos@{MODEL}-0"] = (
            [FILES["test"], FILES["weights"], FILES["log"], PROFILE],
            [f"data/evaluate_photos/{MODEL}/0"],
        )
        self._workshop.record(
            MODEL, levels=[{"psnr_db": 30.0 - 6 * i, "ssim": 0.8, "top1_pct": 60.0, "top5_pct": 80.0} for i in range(3)],
            median_ms=4.0, predicted_ms=4.1, inputs=self._seen(f"evaluate_photos@{MODEL}-0"),
        )  # fmt: skip
        self._workshop.sources = PhotoSources(
            records=Path("data/evaluate_photos"), searches=Path("data/search_supernet"),
            genotypes=Path("data/derive_genotype"), photos=Path(PHOTOS), profile=Path(PROFILE), reference=Path(REFERENCE),
        )  # fmt: skip
        self._workshop.run(run_models=(MODEL,), run_searches=(SEARCH,))
        folders = ["data/evaluate_photos", "data/search_supernet", "data/derive_genotype", PHOTOS]
        self._stages["tabulate_photos"] = ([*folders, PROFILE, REFERENCE], ["results"])
        self.lock()

    def _search(self) -> None:
        item = f"{SEARCH}-0"
        self._stages[f"search_supernet@{item}"] = (
            [f"{PHOTOS}/train.parquet", FILES["validation"], PROFILE],
            [FILES["search"], FILES["architecture"]],
        )
        searched = self._seen(f"search_supernet@{item}")
        spec = self._workshop.params.searches[SEARCH]
        count = len(spec.candidates)
        architecture = ArchitectureRecord(
            search=SEARCH, seed=0, spec=spec, ops=spec.candidates, log_alphas=((0.0,) * count,) * len(PLACES), log_betas=None,
            widths=tuple(tuple(width_bounds(place.in_channels, OPS[op])[0] for op in spec.candidates) for place in PLACES),
            target_ms=4.0, reference_ms=None, provenance=self._made("search_supernet", item, searched),
        )  # fmt: skip
        write_json(self.root / FILES["architecture"], architecture.model_dump(mode="json"))
        self._stages[f"derive_genotype@{item}"] = ([FILES["architecture"], PROFILE], [FILES["genotype"]])
        self._workshop.search(SEARCH, inputs={"search": searched, "derive": self._seen(f"derive_genotype@{item}")})

    def _train(self) -> None:
        item, genotype = f"{MODEL}-0", uniform_genotype("k3_e3", 2)
        self._stages["choose_genotypes"] = (["data/derive_genotype", PROFILE], ["data/genotypes"])
        chosen = ChosenGenotype(model=MODEL, seed=0, genotype=genotype, search=SEARCH, search_seed=0, drawn=None)
        write_json(self.root / FILES["chosen"], chosen.model_dump(mode="json"))
        inputs = {path: sha256_of(self.root / path) for path in (FILES["genotype"], PROFILE)}
        made = self._made("choose_genotypes", "", inputs)
        write_json(self.root / "data/genotypes/provenance.json", made.model_dump(mode="json"))
        self._stages[f"retrain_photos@{item}"] = (
            [f"{PHOTOS}/train.parquet", FILES["validation"], FILES["chosen"]],
            [FILES["weights"], FILES["log"]],
        )
        metadata = PhotoTrainingMetadata(
            model=MODEL, seed=0, spec=self._workshop.params.photo_models[MODEL], genotype=genotype, search_seed=0, drawn=None,
            classes=("a", "b", "c"), epochs=2, batch_size=4, peak_learning_rate=0.1, train_photos=12, image_size=32, precision="fp32",
            memory_format="channels_last", weights_sha256="0" * 64,
            provenance=self._made("retrain", item, self._seen(f"retrain_photos@{item}")),
        )  # fmt: skip
        log = pa.RecordBatch.from_pylist([], schema=PHOTO_TRAINING_LOG)
        write_parquet(self.root / FILES["log"], with_metadata(PHOTO_TRAINING_LOG, metadata), [log])
        write_text(self.root / FILES["weights"], "weights")

    def lock(self) -> None:
        """Write dvc.yaml, params.yaml and dvc.lock over the files as they are."""
        with (self.root / "dvc.yaml").open("w", encoding="utf-8") as file:
            YAML(typ="safe").dump({"stages": {name: {} for name in self._stages}}, file)
        write_text(self.root / "params.yaml", "preset: test\n")
        stages = {
            name: {
                kind: [self._entry(path) for path in paths] for kind, paths in zip(("deps", "outs"), both, strict=True)
            }
            for name, both in self._stages.items()
        }
        with (self.root / "dvc.lock").open("w", encoding="utf-8") as file:
            YAML(typ="safe").dump({"schema": "2.0", "stages": stages}, file)

    def _entry(self, path: str) -> dict[str, str]:
        whole = self.root / path
        return {"path": path, "md5": md5_as_locked(whole) if whole.is_dir() else md5_of(whole)}

    def _seen(self, stage: str) -> dict[str, str]:
        return {path: sha256_of(self.root / path) for path in self._stages[stage][0]}

    def _made(self, stage: str, item: str, inputs: Mapping[str, str]) -> Provenance:
        return self._provenance(stage=stage, item=item).model_copy(update={"inputs": dict(inputs)})

    def audit(self, table: str, cell: str | None = None) -> list[list[Link]]:
        """Return the links of the walk of each cell."""
        name = Path(f"results/{table}")
        cell_map = load_cell_map(name, self.root)
        return [links for _, links in audit_cells(name, find_cells(cell_map, cell), cell_map, self.root)]

    def broken(self, table: str, cell: str) -> list[str]:
        """Return the files whose links are broken in the walk of a cell."""
        return [link.what for links in self.audit(table, cell) for link in links if link.problem]


@pytest.fixture
def audited(
    tmp_path: Path,
    new_photo_workshop: Callable[..., Workshop],
    provenance: Callable[..., Provenance],
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Project:
    """A whole project in its own folder, tabulated there without figures."""
    from dcnas_lineage import records
    from dcnas_tabulate import photo_job

    for name in ("draw_figure_4", "draw_figure_5", "draw_figure_6", "draw_figure_8", "write_photo_page"):
        monkeypatch.setattr(photo_job, name, lambda *_, **__: None)
    for cached in (records.read_record, records.read_search, records.read_genotype, records.read_training):
        cached.cache_clear()  # the paths below are relative, and the same in every project of this file
    monkeypatch.chdir(tmp_path)
    made = Project(new_photo_workshop(tmp_path), provenance, project / "data/reference/paper_tables.csv")
    made.make()
    return made


def test_every_cell_of_every_table_holds(audited: Project) -> None:
    """All cells of all tables, left-out rows included, lead down to files that are what dvc.lock and their readers say."""
    for table in (*(f"table_{number}" for number in "23456"), "table_clean", "searches"):
        walks = audited.audit(table)
        assert walks
        assert [(link.what, link.problem) for links in walks for link in links if link.problem] == []


def test_the_walk_goes_down_to_photos_profile_and_search(audited: Project) -> None:
    """From a figure of Table 3: record, training log and weights, chosen genotype, derived one, architecture, profile, photos."""
    (links,) = audited.audit("table_3", "DC-NAS S,PSNR (dB)")
    depth = {link.what: link.depth for link in links}
    names = ("record", "log", "chosen", "genotype", "architecture", "validation")
    assert [depth[FILES[name]] for name in names] == [1, 2, 3, 4, 5, 6]
    assert {FILES["weights"], FILES["test"], PROFILE} <= set(depth)


def test_the_walk_of_a_search_starts_at_its_genotype(audited: Project) -> None:
    """The measured latency of a derived net leads to genotype, architecture and photos; its oscillation to the search log."""
    (links,) = audited.audit("searches", "noisy_s, seed 0,Measured (ms)")
    assert {FILES["genotype"], FILES["architecture"], FILES["validation"]} <= {link.what for link in links}
    (links,) = audited.audit("searches", "noisy_s, seed 0,Oscillation")
    assert FILES["search"] in {link.what for link in links}


@pytest.mark.parametrize("changed", [name for name in FILES if name != "search"])
def test_a_changed_file_breaks_the_walk_at_itself(audited: Project, changed: str) -> None:
    """One more byte in any file between photos and record, and the walk of a figure names it."""
    path = audited.root / FILES[changed]
    path.write_bytes(path.read_bytes() + b" ")
    assert FILES[changed] in audited.broken("table_3", "DC-NAS S,PSNR (dB)")


def test_a_genotype_derived_anew_breaks_the_walk_of_a_net_trained_before(audited: Project) -> None:
    """Where a search was repeated but the net not trained again, dvc.lock fits and yet the figure is of another genotype."""
    path = audited.root / FILES["genotype"]
    derived = json.loads(path.read_text(encoding="utf-8"))
    derived["target_ms"] = 5.0
    write_json(path, derived)
    audited.lock()
    assert FILES["genotype"] in audited.broken("table_3", "DC-NAS S,PSNR (dB)")


def test_a_text_changed_by_hand_is_found(audited: Project) -> None:
    """A figure of the printed table that its sources do not give is broken at the cell."""
    path = audited.root / "results/table_3.md"
    text = path.read_text(encoding="utf-8")
    write_text(path, text.replace("24.00", "25.00"))
    audited.lock()
    (first, *_) = audited.audit("table_3", "DC-NAS S,PSNR (dB)")[0]
    assert first.problem is not None
    assert "the table prints '25.00'" in first.problem


def test_a_mark_set_by_hand_is_found(audited: Project) -> None:
    """A figure printed as better, which its cell map does not call so, is broken at the cell like a changed one."""
    path = audited.root / "results/table_3.md"
    write_text(path, path.read_text(encoding="utf-8").replace(" 24.00 ", " **24.00** "))
    audited.lock()
    (first, *_) = audited.audit("table_3", "DC-NAS S,PSNR (dB)")[0]
    assert first.problem is not None
    assert "the table prints '**24.00**'" in first.problem
