"""Running the plan: live output, retries, what a failure stops, and the same bytes as `dvc repro`."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock

import pytest
from dvc.utils.serialize import load_yaml

from dcnas_flows.engine import Capacity, Outcome, Plan, Result, Step, execute, exit_code, retrying
from dcnas_flows.project import Project, opened
from dcnas_flows.report import print_summary

NewProject = Callable[[Path, str], Path]

MIXED = """
stages:
  refused: {cmd: exec python work.py refuse refused.txt, outs: [refused.txt]}
  below_refused: {cmd: exec python work.py write below.txt refused.txt, deps: [refused.txt], outs: [below.txt]}
  far_below: {cmd: exec python work.py write far.txt below.txt, deps: [below.txt], outs: [far.txt]}
  flaky: {cmd: exec python work.py crash_once flaky.txt, outs: [flaky.txt]}
  below_flaky: {cmd: exec python work.py write steady.txt flaky.txt, deps: [flaky.txt], outs: [steady.txt]}
  broken: {cmd: exec python work.py crash broken.txt, outs: [broken.txt]}
  buggy: {cmd: exec python work.py bug buggy.txt, outs: [buggy.txt]}
"""

TALK = "stages: {talk: {cmd: exec python work.py talk talk.txt, outs: [talk.txt]}}"

SEEDED = """
stages:
  draw:
    matrix: {model: [a], seed: [0]}
    cmd: exec python work.py write drawn/${item.model}/${item.seed}.txt
    outs: ["drawn/${item.model}/${item.seed}.txt"]
    deps: [work.py]
  join:
    cmd: exec python work.py write joined.txt drawn/a/0.txt
    deps: [drawn]
    outs: [joined.txt]
"""


def run_all(root: Path, capacity: Capacity | None = None) -> tuple[Outcome, ...]:
    """Run all stale stages of a project and print their lines."""
    with opened(root, []) as project:
        return execute(project.plan, lambda step: run(project, step.name), capacity)


def run(project: Project, name: str) -> Outcome:
    """Run one pipeline stage and print its lines."""
    return retrying(lambda: project.run(name, print), print)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, new_project: NewProject) -> dict[str, Outcome]:
    """The outcomes of a pipeline in which one stage refuses its input, one crashes once, one always, and one has a bug."""
    root = new_project(tmp_path_factory.mktemp("mixed") / "project", MIXED)
    return {outcome.name: outcome for outcome in run_all(root)}


def test_a_crash_is_tried_again_once(mixed: dict[str, Outcome]) -> None:
    """A pipeline stage that is killed the first time runs a second time and ends well."""
    assert (mixed["flaky"].result, mixed["flaky"].attempts) == (Result.RAN, 2)


def test_a_second_crash_is_final(mixed: dict[str, Outcome]) -> None:
    """A pipeline stage that crashes twice has failed, with the signal that killed it."""
    assert (mixed["broken"].result, mixed["broken"].attempts, mixed["broken"].exit_code) == (Result.FAILED, 2, -9)


def test_bad_input_is_not_tried_again(mixed: dict[str, Outcome]) -> None:
    """Exit code 2 fails the pipeline stage at once."""
    assert (mixed["refused"].result, mixed["refused"].attempts, mixed["refused"].exit_code) == (Result.FAILED, 1, 2)


def test_a_bug_is_not_tried_again(mixed: dict[str, Outcome]) -> None:
    """An exception of the stage's own code fails it at once: the same code on the same files would take hours to raise it again."""
    assert (mixed["buggy"].result, mixed["buggy"].attempts, mixed["buggy"].exit_code) == (Result.FAILED, 1, 1)


def test_only_what_needs_the_failed_stage_is_left_out(mixed: dict[str, Outcome]) -> None:
    """Below a failure nothing runs, however far below; an independent branch does."""
    assert mixed["below_refused"].result is mixed["far_below"].result is Result.NOT_RUN
    assert mixed["below_flaky"].result is Result.RAN


def test_the_exit_code_is_that_of_the_failed_stage(mixed: dict[str, Outcome]) -> None:
    """The first failure's own code is passed on where it is one of the project's; any other becomes 1."""
    assert exit_code(mixed.values()) == 2
    assert exit_code([mixed["broken"], mixed["refused"]]) == 1
    assert exit_code([mixed["flaky"], mixed["below_flaky"]]) == 0


def test_the_summary_is_plain_text_without_a_terminal(
    mixed: dict[str, Outcome], capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a terminal the summary is one line per pipeline stage, nothing cut off, no frames and no colours."""
    print_summary(tuple(mixed.values()))
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert "\033" not in printed
    lines = printed.splitlines()
    assert len(lines) == 1 + len(mixed)
    assert lines[0].split() == ["pipeline", "stage", "result", "exit", "code", "attempts", "seconds"]
    assert lines[2].split()[:2] == ["below_refused", "not"]


def test_lines_come_while_the_stage_runs(tmp_path: Path, new_project: NewProject) -> None:
    """A stage that waits for an answer to its first line gets it: output is passed on line by line, not at the end."""
    root = new_project(tmp_path / "project", TALK)
    lines = []

    def listen(line: str) -> None:
        lines.append(line)
        if line == "first":
            (root / "heard").touch()

    with opened(root, []) as project:
        outcome = project.run("talk", listen)
    assert outcome.result is Result.RAN, lines
    assert outcome.seconds > 0


def test_a_listener_that_fails_ends_the_stage(tmp_path: Path, new_project: NewProject) -> None:
    """When passing a line on raises, the stage does not run on alone, and has failed."""
    root = new_project(tmp_path / "project", TALK)

    def fail(line: str) -> None:
        if line == "first":
            raise ValueError(line)

    with opened(root, []) as project:
        assert project.run("talk", fail).result is Result.FAILED
    assert not (root / "talk.txt").exists()


def test_the_lock_file_is_the_one_of_dvc_repro(
    tmp_path: Path, new_project: NewProject, dvc_repro: Callable[[Path], None]
) -> None:
    """From nothing, and again after a change, a flow leaves dvc.lock and all outputs byte for byte as `dvc repro` does."""
    ours = new_project(tmp_path / "ours", SEEDED)
    reference = tmp_path / "reference"
    shutil.copytree(ours, reference, symlinks=True)
    for text in (SEEDED, SEEDED.replace("model: [a]", "model: [a, b]")):
        for root in (ours, reference):
            (root / "dvc.yaml").write_text(text)
        assert exit_code(run_all(ours)) == 0
        dvc_repro(reference)
        assert made_files(ours) == made_files(reference)
    before = (ours / ".scratch/flows/dvc.lock").read_text()
    assert "draw@a-0" in before
    assert "draw@b-0" not in before  # the copy is of the lock file as the second flow found it


PAIR = """
stages:
  one: {cmd: exec python work.py meet one.txt, outs: [one.txt]}
  other: {cmd: exec python work.py meet other.txt, outs: [other.txt]}
  both: {cmd: exec python work.py write both.txt one.txt other.txt, deps: [one.txt, other.txt], outs: [both.txt]}
"""


def test_stages_run_side_by_side(
    tmp_path: Path, new_project: NewProject, dvc_repro: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Two stages that end only when both have begun do end, and dvc.lock has the entries that `dvc repro` writes."""
    root = new_project(tmp_path / "project", PAIR)
    outcomes = run_all(root, Capacity(cores=2))
    assert [outcome.result for outcome in outcomes] == [Result.RAN] * 3, capsys.readouterr().out
    ours = load_yaml(str(root / "dvc.lock"))
    (root / "dvc.lock").unlink()
    shutil.rmtree(root / ".dvc/cache/runs")
    dvc_repro(root)  # each has met the other before
    assert load_yaml(str(root / "dvc.lock")) == ours


def test_a_failure_beside_a_running_stage_does_not_stop_it(tmp_path: Path, new_project: NewProject) -> None:
    """What runs beside a failing stage ends well; what needs both is left out."""
    root = new_project(tmp_path / "project", PAIR.replace("meet one.txt", "refuse one.txt").replace("meet", "write"))
    results = {outcome.name: outcome.result for outcome in run_all(root, Capacity(cores=2))}
    assert results == {"one": Result.FAILED, "other": Result.RAN, "both": Result.NOT_RUN}


@pytest.mark.parametrize("what", ["work.py", "params.yaml"])
def test_an_input_that_changes_while_a_stage_runs_is_not_its_cause(
    tmp_path: Path, new_project: NewProject, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    Code or a parameter edited meanwhile fails the stage by name, and the next run makes it anew (treeverse/dvc #11058: dvc records the
    new input as the cause of the old output).
    """
    pipeline = (
        "stages: {edit: {cmd: exec python work.py edit out.txt, deps: [work.py], params: [seed], outs: [out.txt]}}"
    )
    root = new_project(tmp_path / "project", pipeline)
    (root / "params.yaml").write_text("seed: 0\n")
    (root / "edits").write_text(what)
    (failed,) = run_all(root)
    assert (failed.result, failed.exit_code, failed.attempts) == (Result.FAILED, 3, 1)
    assert f"{what} changed while it ran" in capsys.readouterr().out
    assert not (root / "dvc.lock").exists()
    (root / "edits").unlink()
    assert run_all(root)[0].result is Result.RAN


def step(name: str, *upstream: str, **meta: object) -> Step:
    """Return a stale step."""
    return Step(name=name, upstream=upstream, stale=True, meta=meta)


class Together:
    """Runs steps that take a moment, and remembers which ran beside which."""

    def __init__(self) -> None:
        self.lock, self.running = Lock(), set[str]()
        self.beside: dict[str, set[str]] = {}

    def __call__(self, one: Step) -> Outcome:
        """Run a step for a moment."""
        with self.lock:
            self.running.add(one.name)
            self.beside[one.name] = set()
            for name in self.running - {one.name}:
                self.beside[name].add(one.name)
                self.beside[one.name].add(name)
        time.sleep(0.05)
        with self.lock:
            self.running.remove(one.name)
        return Outcome(name=one.name, result=Result.RAN)


def test_what_times_runs_alone_and_the_rest_as_it_fits() -> None:
    """On four cores: never more cores taken than there are, a timing stage and one that takes all alone, one GPU stage at a time."""
    steps = [
        step("a", resources={"cpu": 1}),
        step("b", resources={"cpu": 3}),
        step("c", resources={"cpu": 2, "device": 1}),
        step("d", resources={"cpu": 1, "device": 1}),
        step("e", resources={"cpu": "all"}),
        step("f", resources={"cpu": 1}, timing=True),
        step("g", "a", "f", resources={"cpu": 1}),
        step("h", resources={"cpu": 99}),
        step("i"),
    ]
    watch = Together()
    outcomes = execute(Plan(steps=tuple(steps)), watch, Capacity(cores=4, gpu=True))
    assert [outcome.name for outcome in outcomes] == list("abcdefghi"), "in the plan's order"
    assert watch.beside["a"] >= {"b"}
    for alone in "efh":
        assert not watch.beside[alone]
    assert "d" not in watch.beside["c"]
    assert not watch.beside["b"] & {"c"}
    assert not watch.beside["g"] & {"a", "f"}


def test_without_a_capacity_one_step_runs_at_a_time_in_order() -> None:
    """As `dvc repro` does it."""
    watch = Together()
    steps = tuple(step(name) for name in "cab")
    execute(Plan(steps=steps), watch)
    assert list(watch.beside) == list("cab")
    assert not any(watch.beside.values())


def test_an_error_of_the_engine_is_raised() -> None:
    """What is no failure of a stage ends the run."""

    def broken(_: Step) -> Outcome:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        execute(Plan(steps=(step("a"),)), broken, Capacity(cores=2))


def made_files(root: Path) -> dict[str, bytes]:
    """Return the content of dvc.lock, of the outputs and of what dvc adds to .gitignore, by path."""
    paths = [root / "dvc.lock", root / "joined.txt", *root.glob("drawn/**/*"), *root.rglob(".gitignore")]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths if path.is_file()}
