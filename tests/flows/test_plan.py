"""The plan: DVC's graph, DVC's order, DVC's word on what is stale."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from dvc.repo import Repo

from dcnas_flows.engine import Outcome, Plan, Result, execute, group_of, retrying
from dcnas_flows.project import opened, plan
from dcnas_flows.report import describe, mermaid
from dcnas_harness.errors import BadInputError, UnfitEnvironmentError

NewProject = Callable[[Path, str], Path]
PROJECT = Path(__file__).resolve().parents[2]

CHAINS = """
stages:
  first:
    cmd: exec python work.py constant first.txt
    params: [seed]
    outs: [first.txt]
    meta: {resources: {cpu: 1}}
  second:
    matrix: {item: [x, y]}
    cmd: exec python work.py write second-${item.item}.txt first.txt
    deps: [first.txt]
    outs: ["second-${item.item}.txt"]
  last:
    cmd: exec python work.py write last.txt second-x.txt
    deps: [second-x.txt]
    outs: [last.txt]
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this project's pipeline and code, with nothing made yet."""
    root = tmp_path_factory.mktemp("real") / "project"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=PROJECT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (PROJECT / name).is_file() and not name.startswith(("tests/", "results/")) and name != "dvc.lock":
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(PROJECT / name, root / name)
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    return root


@pytest.fixture(scope="module")
def whole(project: Path) -> Plan:
    """The plan of the whole project."""
    return plan(project, [])


def test_the_plan_is_the_graph_that_dvc_has(project: Path, whole: Plan) -> None:
    """Nodes and edges of the plan are those of DVC's own graph, for the project's real dvc.yaml."""
    with Repo(str(project)) as repo:
        graph = repo.index.graph
        assert {step.name for step in whole.steps} == {stage.name for stage in graph}
        edges = {(above.name, below.name) for below, above in graph.edges}
    assert {(above, step.name) for step in whole.steps for above in step.upstream} == edges


def test_upstream_comes_first(whole: Plan) -> None:
    """In the plan, every pipeline stage comes after all that it reads, and nothing reads the tables."""
    seen: set[str] = set()
    for step in whole.steps:
        assert seen.issuperset(step.upstream)
        seen.add(step.name)
    assert {"tabulate", "tabulate_photos"} <= seen - {name for step in whole.steps for name in step.upstream}


def test_everything_is_stale_before_the_first_run(whole: Plan) -> None:
    """Without dvc.lock each pipeline stage is stale and knows its resources."""
    assert whole.stale == whole.steps
    assert all("resources" in step.meta for step in whole.steps)


def test_a_target_takes_only_what_it_needs(project: Path, whole: Plan) -> None:
    """The group `retrain` is planned with the data and without evaluation or tables."""
    expected = {step.name for step in whole.steps if step.name.startswith(("generate_data", "retrain@"))}
    assert {step.name for step in plan(project, ["retrain"]).steps} == expected
    one = next(name for name in sorted(expected) if name.startswith("retrain@"))
    assert {step.name for step in plan(project, [one]).steps} == {"generate_data", one}


@pytest.mark.parametrize(("target", "nearest"), [("retrian", "'retrain'"), ("tabulat", "'tabulate'")])
def test_an_unknown_target_is_named_with_the_nearest(project: Path, target: str, nearest: str) -> None:
    """A misspelt target is bad input, and the message has the target and what it may have meant."""
    with pytest.raises(BadInputError, match=target) as caught:
        plan(project, [target])
    assert f"did you mean {nearest}" in str(caught.value)


def test_the_drawing_has_one_node_for_a_matrix(whole: Plan) -> None:
    """The Mermaid drawing shows each matrix as one node with its numbers, and the edges between them."""
    drawing = mermaid(whole)
    runs = sum(step.name.startswith("retrain@") for step in whole.steps)
    assert drawing.startswith("flowchart TD\n")
    assert f'["retrain<br/>{runs} of {runs} stale"]' in drawing
    edges = {(group_of(name), group_of(step.name)) for step in whole.steps for name in step.upstream}
    assert len(re.findall(r"-->", drawing)) == len(edges) > 10
    assert len(re.findall(r'\["', drawing)) == len({group_of(step.name) for step in whole.steps}) == 12


@pytest.fixture(scope="module")
def chains(
    tmp_path_factory: pytest.TempPathFactory, new_project: NewProject, dvc_repro: Callable[[Path], None]
) -> Path:
    """A small project that has run once."""
    root = new_project(tmp_path_factory.mktemp("toy") / "project", CHAINS)
    (root / "params.yaml").write_text("seed: 0\n")
    dvc_repro(root)
    return root


def run(root: Path, target: str) -> tuple[Outcome, ...]:
    """Run what is stale of what the target needs."""
    with opened(root, [target]) as project:
        return execute(project.plan, lambda step: retrying(lambda: project.run(step.name, print), print))


def test_nothing_is_stale_after_a_run(chains: Path) -> None:
    """After `dvc repro` the plan has no stale step, and says so."""
    made = plan(chains, [])
    assert not made.stale
    assert describe(made) == "nothing is stale: all 4 pipeline stages are up to date"


def test_all_below_a_stale_stage_is_stale(chains: Path) -> None:
    """A lost output makes its own pipeline stage stale and what reads it, directly or not; nothing else."""
    lost = chains / "second-x.txt"
    content = lost.read_bytes()
    lost.unlink()
    made = plan(chains, [])
    lost.write_bytes(content)
    assert {step.name for step in made.stale} == {"second@x", "last"}


def test_dvc_has_the_last_word_on_what_runs(chains: Path) -> None:
    """What stands below an output that came out the same is not run; what dvc has made before is restored, not run again."""
    parameters = chains / "params.yaml"
    parameters.write_text("seed: 1\n")
    results = {outcome.name: outcome.result for outcome in run(chains, "last")}
    assert results == {"first": Result.RAN, "second@x": Result.UNCHANGED, "last": Result.UNCHANGED}
    parameters.write_text("seed: 0\n")
    assert [outcome.result for outcome in run(chains, "first")] == [Result.RESTORED]
    assert not plan(chains, []).stale


BROKEN = {
    "not YAML": ("dvc.yaml", "stages: [", "dvc.yaml"),
    "unknown key": ("dvc.yaml", CHAINS.replace("meta:", "metta:"), "metta"),
    "unknown parameter": ("dvc.yaml", CHAINS.replace("[x, y]", "'${no.such}'"), "no.such"),
    "no pipeline": ("dvc.yaml", "stages: {}", "no pipeline stages"),
    "bad parameters": ("params.yaml", "seed: [", "params.yaml"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_dvc_cannot_read_is_bad_input(tmp_path: Path, new_project: NewProject, case: str) -> None:
    """A broken dvc.yaml or params.yaml is refused with DVC's own message and a remedy."""
    file, text, expected = BROKEN[case]
    root = new_project(tmp_path / "project", CHAINS)
    (root / "params.yaml").write_text("seed: 0\n")
    (root / file).write_text(text)
    with pytest.raises(BadInputError, match=re.escape(expected)) as caught:
        plan(root, [])
    assert "remedy" in str(caught.value)


def test_a_damaged_lock_file_can_be_taken_back(tmp_path: Path, new_project: NewProject) -> None:
    """When dvc.lock was cut short by a kill, the message names the copy that the last flow kept."""
    root = new_project(tmp_path / "project", CHAINS)
    (root / "params.yaml").write_text("seed: 0\n")
    (root / "dvc.lock").write_text("")
    with pytest.raises(BadInputError) as caught:
        plan(root, [])
    assert "cp " not in str(caught.value)
    copy = root / ".scratch/flows/dvc.lock"
    copy.parent.mkdir(parents=True)
    copy.touch()
    with pytest.raises(BadInputError, match=r"cp \.scratch/flows/dvc\.lock dvc\.lock"):
        plan(root, [])


def test_a_dvc_at_work_is_waited_for_only_shortly(tmp_path: Path, new_project: NewProject) -> None:
    """While another dvc holds the repository, planning ends with the unfit-environment error."""
    root = new_project(tmp_path / "project", CHAINS)
    with Repo(str(root)) as other, other.lock, pytest.raises(UnfitEnvironmentError, match="Another dvc process"):
        plan(root, [])
