"""The whole graph at the smoke preset: what it makes, and what reruns when something changes."""

import json
import re
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from dcnas_flows.project import plan
from dcnas_schema.params import Params, load_params, read_yaml

Command = Callable[..., subprocess.CompletedProcess[str]]
Changed = Callable[[Path], AbstractContextManager[Path]]
MODELS = ("dcnet_reduced_integrated", "dcnet_reduced_sequential", "unet_s", "classifier_conv_noisy")
SEARCHES = ("noisy_s", "sink_4_s")
PHOTO_MODELS = ("mobilenet_v3_small", "unet_s", "dc_nas_s", "dc_random_s")
DIGITS = {f"{stage}@{model}-0" for stage in ("retrain", "evaluate") for model in MODELS}
EVALUATED = {f"evaluate@{model}-0" for model in MODELS} | {"tabulate"}
SEARCHED = {f"search_supernet@{search}-0" for search in SEARCHES}
DERIVED = {f"derive_genotype@{search}-0" for search in SEARCHES}
PHOTOS_RETRAINED = {f"retrain_photos@{model}-0" for model in PHOTO_MODELS}
PHOTOS_EVALUATED = {f"evaluate_photos@{model}-0" for model in PHOTO_MODELS} | {"tabulate_photos"}
CHOSEN = {"choose_genotypes"} | PHOTOS_RETRAINED | PHOTOS_EVALUATED
PHOTOS = SEARCHED | DERIVED | CHOSEN
EVERY = {"generate_data", "generate_photos", "profile_latency", "tabulate"} | DIGITS | PHOTOS
RETRAINED = DIGITS | {"tabulate"}
IDENTITY = ["-c", "user.name=test", "-c", "user.email=test@example.invalid"]


def test_the_graph_makes_every_declared_output(smoke: Path) -> None:
    """After one `dvc repro` in an awkwardly named folder, every output of dvc.lock is there."""
    stages = read_yaml(smoke / "dvc.lock")["stages"]
    assert set(stages) == EVERY
    for locked in stages.values():
        for out in locked["outs"]:
            assert (smoke / out["path"]).exists(), out["path"]


def test_the_table_has_the_models_that_ran(smoke: Path) -> None:
    """Table 1 has the noisy input and the two joint models, with the paper's figures beside them."""
    table = pq.read_table(smoke / "results/table_1.parquet").to_pydict()
    assert table["model"] == ["noisy input", "DC-Net reduced integrated", "DC-Net reduced sequential"]
    assert table["paper_psnr_db"] == [None, 29.9, 25.2]
    assert all(
        source == f"data/evaluate/{model}/0/record.parquet"
        for source, model in zip(table["source"][1:], MODELS, strict=False)
    )


def test_nothing_reruns_on_unchanged_inputs(smoke: Path, command: Command) -> None:
    """A second `dvc repro` runs no pipeline stage."""
    done = command(["dvc", "repro"], smoke)
    assert done.returncode == 0, done.stderr
    assert "Running stage" not in done.stdout
    assert "up to date" in done.stdout


def leaves(value: object, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the key paths of all values that are not mappings."""
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in leaves(item, (*path, key))]
    return [path]


def expected_reruns(path: tuple[str, ...]) -> set[str]:
    """Return the pipeline stages that a change of the parameter at `path` must rerun: those that read it, and all below."""
    section = path[0]
    if section == "models":
        return {name for name in DIGITS if f"@{path[1]}-" in name} | {"tabulate"}
    if section == "searches":
        return (
            {f"{stage}@{path[1]}-0" for stage in ("search_supernet", "derive_genotype")} | CHOSEN
            if path[1] in SEARCHES
            else {"tabulate_photos"}
        )
    return {
        "preset": {"tabulate", "tabulate_photos"},
        "tabulate": {"tabulate", "tabulate_photos"},
        "generate_data.digits": RETRAINED | {"generate_data"},
        "generate_data.photos": PHOTOS | {"generate_photos"},
        "profile_latency": PHOTOS | {"profile_latency", "tabulate"},
        "device": EVERY - {"generate_data", "generate_photos"},
        "noise": RETRAINED,
        "retrain": RETRAINED,
        "evaluate": EVALUATED,
        "photo_view": PHOTOS_RETRAINED | PHOTOS_EVALUATED,
        "photo_noise": PHOTOS_RETRAINED | PHOTOS_EVALUATED,
        "search_supernet": PHOTOS,
        "derive_genotype": DERIVED | CHOSEN,
        "photo_models": CHOSEN,
        "retrain_photos": PHOTOS_RETRAINED | PHOTOS_EVALUATED,
        "evaluate_photos": PHOTOS_EVALUATED,
    }[".".join(path[:2]) if section == "generate_data" else section]


SMOKE = read_yaml(Path(__file__).resolve().parents[2] / "presets/smoke.yaml")
SHOWN = ("dc_random_s", "tf_nas_m")
CHANGEABLE = [
    path
    for path in leaves(SMOKE)
    if path[0] not in ("runs", "photo_runs", "search_runs")
    and not (path[0] == "photo_models" and path[1] not in SHOWN)
    and not (path[0] == "searches" and path[1] not in (*SEARCHES, "tf_nas_m"))
]
"""All parameters but which runs there are; of the many models and searches that do not run, one stands for all."""
ONE_A_SECTION = [
    ("preset",),
    ("device", "threads"),
    ("noise", "clip"),
    ("models", "unet_s", "unet", "multiplier"),
    ("models", "unet_baseline", "kind"),
    ("generate_data", "digits", "root"),
    ("profile_latency", "limits", "mape_pct"),
    ("retrain", "loss", "cross_entropy"),
    ("evaluate", "panel", "sigmas"),
    ("tabulate", "confidence"),
    ("photo_view", "flip"),
    ("photo_noise", "clip"),
    ("searches", "noisy_s", "ops"),
    ("search_supernet", "momentum"),
    ("derive_genotype", "repeats"),
    ("photo_models", "tf_nas_m", "images"),
    ("retrain_photos", "dropout"),
    ("evaluate_photos", "panel", "images"),
]


def another(value: object) -> object:
    """Return another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, list):
        return value[:-1] or ["x"]
    return f"{value}_"


@dataclass(frozen=True)
class Graph:
    """DVC's own reading of dvc.yaml: which parameters each pipeline stage declares, and what it reads directly."""

    declared: dict[str, tuple[str, ...]]
    upstream: dict[str, set[str]]

    def stale_after(self, path: tuple[str, ...]) -> set[str]:
        """Return the stages that declare the parameter at `path` or a section around it, and all below them."""
        around = {".".join(path[:length]) for length in range(1, len(path) + 1)}
        stale = {name for name, declared in self.declared.items() if around & set(declared)}
        while below := {name for name, upstream in self.upstream.items() if upstream & stale} - stale:
            stale |= below
        return stale


@pytest.fixture(scope="module")
def graph(finished_once: Path) -> Graph:
    """The graph of the finished project, loaded once."""
    with Repo(str(finished_once)) as repo:
        stages = list(repo.index.graph)
        return Graph(
            declared={stage.name: tuple(name for params in stage.params for name in params.params) for stage in stages},
            upstream={stage.name: {other.name for other in repo.index.graph.successors(stage)} for stage in stages},
        )


@pytest.mark.parametrize("path", CHANGEABLE, ids=".".join)
def test_a_changed_parameter_reruns_only_its_readers_and_those_below(graph: Graph, path: tuple[str, ...]) -> None:
    """Each single parameter of params.yaml is declared by just the pipeline stages that read it, so that those and all below rerun."""
    assert graph.stale_after(path) == expected_reruns(path)


@pytest.mark.parametrize("path", ONE_A_SECTION, ids=".".join)
def test_dvc_sees_a_change_of_any_depth_and_type(
    finished_once: Path, changed: Changed, graph: Graph, path: tuple[str, ...]
) -> None:
    """For one parameter of each section, be it null, a list or deep inside, DVC's own word on what is stale is that of the graph."""
    with changed(finished_once / "params.yaml") as parameters:
        values = read_yaml(parameters)
        section = values
        for key in path[:-1]:
            section = section[key]
        section[path[-1]] = another(section[path[-1]])
        with parameters.open("w") as file:
            YAML(typ="safe").dump(values, file)
        stale = {step.name for step in plan(finished_once, []).steps if step.stale}
    assert stale == expected_reruns(path) == graph.stale_after(path)


def test_every_section_has_a_change_that_dvc_is_asked_about() -> None:
    """A section added to params.yaml must be added to the list above."""
    assert {path[0] for path in ONE_A_SECTION} == {path[0] for path in CHANGEABLE}
    assert set(ONE_A_SECTION) <= set(CHANGEABLE)


def test_an_added_seed_runs_only_the_new_seed(finished_once: Path, changed: Changed) -> None:
    """A second seed of the models on scenes trains and evaluates that seed alone, then tabulates."""
    with changed(finished_once / "params.yaml") as parameters:
        parameters.write_text(parameters.read_text().replace("seeds: [0]", "seeds: [0, 1]", 1))
        stale = {step.name for step in plan(finished_once, []).steps if step.stale}
    assert stale == {f"{stage}@{model}-1" for stage in ("retrain", "evaluate") for model in MODELS} | {"tabulate"}


def test_every_parameter_is_read_by_a_stage_of_the_graph(smoke: Path) -> None:
    """No section of params.yaml stands outside dvc.yaml: a change to it would go unseen."""
    declared = {
        re.split(r"[.]", name)[0]
        for locked in read_yaml(smoke / "dvc.yaml")["stages"].values()
        for name in locked["params"]
    }
    assert declared == set(Params.model_fields)


def test_only_what_reads_a_changed_parameter_really_runs(finished: Path, command: Command) -> None:
    """Fewer epochs for one model train and evaluate that model alone, then tabulate, and `dvc metrics diff` shows the difference."""
    command(["git", "add", "dvc.lock"], finished)
    assert command(["git", *IDENTITY, "commit", "--quiet", "--all", "--message", "run"], finished).returncode == 0
    parameters = finished / "params.yaml"
    parameters.write_text(
        parameters.read_text().replace("unet_s: {kind: denoiser,", "unet_s: {kind: denoiser, epochs: 1,")
    )
    done = command(["dvc", "repro"], finished)
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"Running stage '([^']+)'", done.stdout)) == expected_reruns(("models", "unet_s"))
    difference = json.loads(command(["dvc", "metrics", "diff", "--json"], finished).stdout)
    assert "unet_s.psnr_db" in difference["results/metrics.json"]


def test_another_search_retrains_no_model_that_is_not_on_it(finished: Path, command: Command) -> None:
    """A new target of one search: it runs again, genotypes are chosen again, and models of the other search and baselines stay."""
    parameters = finished / "params.yaml"
    old = "sink_4_s: {ops: 4, beta: sink, images: clean, target: {reach: 0.1}"
    assert old in parameters.read_text()
    parameters.write_text(parameters.read_text().replace(old, old.replace("0.1", "0.6")))
    done = command(["dvc", "repro", "evaluate_photos"], finished)
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"Running stage '([^']+)'", done.stdout)) == {
        "search_supernet@sink_4_s-0",
        "derive_genotype@sink_4_s-0",
        "choose_genotypes",
    }


def test_another_genotype_retrains_its_model_alone(finished: Path, command: Command) -> None:
    """A model that is built of another draw trains and is scored again; no other does."""
    parameters = finished / "params.yaml"
    old = "dc_random_s: {kind: dc_nas, random: {like: noisy_s, ops: 4}}"
    assert old in parameters.read_text()
    parameters.write_text(parameters.read_text().replace(old, old.replace("ops: 4", "ops: 6")))
    done = command(["dvc", "repro", "evaluate_photos"], finished)
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"Running stage '([^']+)'", done.stdout)) == {
        "choose_genotypes",
        "retrain_photos@dc_random_s-0",
        "evaluate_photos@dc_random_s-0",
    }


def test_a_commit_alone_retrains_nothing(finished: Path, command: Command) -> None:
    """Photographs made again at another commit are the same bytes: what was trained on them stays."""
    assert (
        command(
            ["git", *IDENTITY, "commit", "--quiet", "--all", "--allow-empty", "--message", "next"], finished
        ).returncode
        == 0
    )
    done = command(["dvc", "repro", "--force", "--single-item", "generate_photos"], finished)
    assert done.returncode == 0, done.stderr
    assert {step.name for step in plan(finished, ["retrain_photos"]).steps if step.stale} == set()


def test_metrics_are_shown(smoke: Path, command: Command) -> None:
    """`dvc metrics show` reads results/metrics.json."""
    shown = json.loads(command(["dvc", "metrics", "show", "--json"], smoke).stdout)
    assert "dcnet_reduced_integrated" in shown[""]["data"]["results/metrics.json"]["data"]


def test_the_curves_are_plots(smoke: Path, command: Command) -> None:
    """`dvc plots show` finds a curve for each model that ran in each quantity."""
    shown = json.loads(command(["dvc", "plots", "show", "--json", "--split"], smoke).stdout)
    for quantity in ("PSNR (dB)", "SSIM", "Top-1 (%)"):
        definitions = json.dumps(shown["data"][f"{quantity} over the noise level"])
        assert all(model in definitions for model in MODELS)


def test_the_params_of_the_project_are_a_preset() -> None:
    """Every stored preset is valid, and carries its own name."""
    for path in sorted((Path(__file__).resolve().parents[2] / "presets").glob("*.yaml")):
        assert load_params(path).preset == path.stem
