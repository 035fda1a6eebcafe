"""Publishing: a committed copy of results that its own bundle can derive, or a refusal that changes nothing."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from dcnas_app.presets import apply_preset, require_known_preset
from dcnas_app.publishing import publish_results
from dcnas_harness.errors import BadInputError
from dcnas_lineage.cells import derive
from dcnas_schema.cells import CellMap
from dcnas_schema.params import Params
from dcnas_schema.records import EvaluationMetadata
from dcnas_tabulate.job import tabulate

MODEL = "dcnet_reduced_integrated"
LEVELS = [{"psnr_db": 40.0, "ssim": 0.9, "top1_pct": 90.0}] * 2


@pytest.fixture
def project_with_results(
    tmp_path: Path,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_params: Callable[..., Path],
    tiny_params: Callable[..., Params],
    write_record: Callable[..., EvaluationMetadata],
) -> Path:
    """A project whose tables were made by hand-written records of one model, its second seed failed."""
    changes: dict[str, Any] = {"runs.models": [MODEL], "runs.seeds": [0, 1], "preset": "smoke"}
    path = write_params(tmp_path / "params.yaml", changes)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "presets").mkdir()
    shutil.copyfile(path, tmp_path / "presets/smoke.yaml")
    shutil.copyfile(project / "dvc.yaml", tmp_path / "dvc.yaml")
    reference = Path("data/reference/paper_tables.csv")
    reference.parent.mkdir(parents=True)
    shutil.copyfile(project / reference, reference)
    write_record(Path("data/evaluate") / MODEL / "0", MODEL, 0, levels=LEVELS, median_ms=5.0)
    tabulate(tiny_params(changes), Path("data/evaluate"), reference, Path("results"))
    values = YAML(typ="safe", pure=True).load(path.read_text())
    read = {key: values[key] for key in ("preset", "runs", "models", "tabulate")}
    read["generate_data.digits"] = values["generate_data"]["digits"]
    with (tmp_path / "dvc.lock").open("w") as file:
        YAML().dump({"schema": "2.0", "stages": {"tabulate": {"cmd": "x", "params": {"params.yaml": read}}}}, file)
    return tmp_path


def test_published_cells_follow_from_the_bundle(project_with_results: Path) -> None:
    """Tables, figures and page are copied; every cell can be derived from the records under bundle/. A missing seed is no obstacle."""
    target = publish_results(project_with_results)
    assert target == project_with_results / "results/published/smoke-test-cpu"
    assert (target / "index.html").is_file()
    found = CellMap.model_validate_json((target / "table_1.cells.json").read_text())
    for cell in found.cells:
        assert derive(cell, confidence=found.confidence, root=target / "bundle").text == cell.text
    assert {path.name for path in (target / "bundle").iterdir()} == {"dvc.lock", "dvc.yaml", "params.yaml", "data"}


def test_publishing_again_takes_the_place_of_the_old(project_with_results: Path) -> None:
    """What the former copy had and the new one has not is gone, and nothing temporary stays."""
    target = publish_results(project_with_results)
    (target / "former.md").write_text("old")
    publish_results(project_with_results)
    assert not (target / "former.md").exists()
    assert not list((project_with_results / "results").glob("tmp*"))


def test_tables_of_other_parameters_are_not_published(project_with_results: Path) -> None:
    """After an edit without `dvc repro` the tables are not those of params.yaml: refused by the name of the section."""
    for path in (project_with_results / "params.yaml", project_with_results / "presets/smoke.yaml"):
        values = YAML(typ="safe", pure=True).load(path.read_text())
        values["tabulate"]["confidence"] = 0.9
        with path.open("w") as file:
            YAML().dump(values, file)
    with pytest.raises(BadInputError, match=r"(?s)other parameters than params.yaml holds: tabulate.*make repro"):
        publish_results(project_with_results)
    assert not (project_with_results / "results/published").exists()


def test_a_changed_preset_is_not_published_under_its_name(project_with_results: Path) -> None:
    """params.yaml that differs from the preset whose label it bears needs a label of its own."""
    with (project_with_results / "params.yaml").open("a") as file:
        file.write("# changed\n")
    with pytest.raises(BadInputError, match=r"differs from presets/smoke\.yaml"):
        publish_results(project_with_results)


def test_an_unknown_preset_in_params_is_named(project: Path, tmp_path: Path) -> None:
    """A label that no stored preset has is refused with the nearest one; a stored one's own file is unchanged, an edited one changed."""
    shutil.copytree(project / "presets", tmp_path / "presets")
    apply_preset(tmp_path, "smoke", force=False)
    assert not require_known_preset(tmp_path, "smoke")
    with (tmp_path / "params.yaml").open("a") as file:
        file.write("# changed\n")
    assert require_known_preset(tmp_path, "smoke")
    with pytest.raises(BadInputError, match=r"(?s)preset = 'papper'.*did you mean 'paper'"):
        require_known_preset(tmp_path, "papper")
