"""Running the plan: live output, retries, what a failure stops, and the same bytes as `dvc repro`."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dcnas_flows.engine import Outcome, Result, claimed, execute, exit_code, plan, run_stage, run_with_retry
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


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, new_project: NewProject) -> dict[str, Outcome]:
    """The outcomes of a pipeline in which one stage refuses its input, one crashes once and one always."""
    root = new_project(tmp_path_factory.mktemp("mixed") / "project", MIXED)
    return {outcome.name: outcome for outcome in execute(plan(root, []), lambda step: retrying(root, step.name))}


def retrying(root: Path, name: str) -> Outcome:
    """Run one pipeline stage and print its lines."""
    return run_with_retry(root, name, print)


def test_a_crash_is_tried_again_once(mixed: dict[str, Outcome]) -> None:
    """A pipeline stage that is killed the first time runs a second time and ends well."""
    assert (mixed["flaky"].result, mixed["flaky"].attempts) == (Result.RAN, 2)


def test_a_second_crash_is_final(mixed: dict[str, Outcome]) -> None:
    """A pipeline stage that crashes twice has failed, with the signal that killed it."""
    assert (mixed["broken"].result, mixed["broken"].attempts, mixed["broken"].exit_code) == (Result.FAILED, 2, -9)


def test_bad_input_is_not_tried_again(mixed: dict[str, Outcome]) -> None:
    """Exit code 2 fails the pipeline stage at once."""
    assert (mixed["refused"].result, mixed["refused"].attempts, mixed["refused"].exit_code) == (Result.FAILED, 1, 2)


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

    outcome = run_stage(root, "talk", listen)
    assert outcome.result is Result.RAN, lines
    assert outcome.seconds > 0


def test_a_listener_that_fails_ends_the_stage(tmp_path: Path, new_project: NewProject) -> None:
    """When passing a line on raises, the stage does not run on alone."""
    root = new_project(tmp_path / "project", TALK)

    def fail(line: str) -> None:
        if line == "first":
            raise ValueError(line)

    with pytest.raises(ValueError, match="first"):
        run_stage(root, "talk", fail)
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
        with claimed(ours, []) as made:
            assert exit_code(execute(made, lambda step: retrying(ours, step.name))) == 0
        dvc_repro(reference)
        assert made_files(ours) == made_files(reference)
    before = (ours / ".scratch/flows/dvc.lock").read_text()
    assert "draw@a-0" in before
    assert "draw@b-0" not in before  # the copy is of the lock file as the second flow found it


def made_files(root: Path) -> dict[str, bytes]:
    """Return the content of dvc.lock, of the outputs and of what dvc adds to .gitignore, by path."""
    paths = [root / "dvc.lock", root / "joined.txt", *root.glob("drawn/**/*"), *root.rglob(".gitignore")]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths if path.is_file()}
