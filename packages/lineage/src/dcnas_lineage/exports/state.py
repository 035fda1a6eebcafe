"""The state of a project that is exported: the records of its live runs, the results, and what the project says of itself."""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from dcnas_harness.errors import BadInputError, CorruptArtefactError
from dcnas_harness.files import md5_of, sha256_of
from dcnas_lineage.graph import LiveStage, load_graph
from dcnas_schema.params import read_yaml
from dcnas_schema.run_record import HashedFile, HashedPath, RunRecord, record_path

RESULTS = "results/"
"""Where the tables, figures and pages lie that a reader gets."""
WORKFLOW, PARAMETERS, LOCK, REQUIREMENTS = "dvc.yaml", "params.yaml", "dvc.lock", "requirements.lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """What CITATION.cff says of the project."""

    title: str
    version: str
    licence: str | None
    """SPDX identifier; `None` where there is none."""
    authors: tuple[str, ...]
    address: str | None
    """Where the code is published; `None` where CITATION.cff names no `repository-code`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One entry of dvc.yaml's `stages`, with all items of its matrix."""

    name: str
    description: str
    tool: str
    """The module that its command runs: `dcnas_retrain`."""
    runs: tuple[RunRecord, ...]
    position: int | None
    """Above those of all steps that it reads from; `None` where steps read from each other in a circle."""


@dataclass(frozen=True, kw_only=True)
class ProjectState:
    """What is exported."""

    root: Path
    about: About
    preset: str
    steps: tuple[Step, ...]
    runs: tuple[RunRecord, ...]
    """Of all live pipeline stages, a run behind those that it read from."""

    @cached_property
    def made(self) -> dict[str, HashedFile]:
        """Path -> file, of all that a run made."""
        return {file.path: file for run in self.runs for file in run.files_made()}

    @cached_property
    def makers(self) -> dict[str, str]:
        """Path -> pipeline stage, of all that a run made."""
        return {file.path: run.stage for run in self.runs for file in run.files_made()}

    @cached_property
    def results(self) -> tuple[HashedFile, ...]:
        """The tables, figures and pages, by path."""
        return tuple(file for path, file in sorted(self.made.items()) if path.startswith(RESULTS))

    @cached_property
    def given(self) -> tuple[HashedPath, ...]:
        """What runs read and no run made: source files and folders of code, by path; a path read in two versions stands there twice."""
        found = {
            (dep.path, dep.sha256): dep
            for run in self.runs
            for dep in run.deps
            if not any(file.path in self.made for file in dep.files)
        }
        return tuple(dep for _, dep in sorted(found.items()))

    @cached_property
    def params(self) -> dict[str, Any]:
        """Dotted key of params.yaml -> value, of all keys that a run read."""
        return dict(sorted((key, value) for run in self.runs for key, value in run.params.items()))

    @cached_property
    def commits(self) -> tuple[str, ...]:
        """The commits whose code ran, sorted."""
        return tuple(sorted({run.git.commit for run in self.runs if run.git.commit is not None}))

    @cached_property
    def environments(self) -> tuple[str, ...]:
        """SHA-256 of the requirements.lock that runs had, sorted."""
        found = {run.environment.requirements_lock_sha256 for run in self.runs}
        return tuple(sorted(sha256 for sha256 in found if sha256 is not None))

    @property
    def engine_version(self) -> str | None:
        """DVC's version, by the requirements.lock that all runs had; `None` where it is not this one."""
        path = self.root / REQUIREMENTS
        if not path.is_file() or self.environments != (sha256_of(path),):
            return None
        found = re.search(r"^dvc==([^\s\\;]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        return None if found is None else found.group(1)

    @property
    def started(self) -> datetime:
        """When the first run started, UTC."""
        return min(utc(run.started) for run in self.runs)

    @property
    def ended(self) -> datetime:
        """When the last run ended, UTC."""
        return max(utc(run.ended) for run in self.runs)

    def record_sha256(self, run: RunRecord) -> str:
        """Return the SHA-256 of the file of a run's record."""
        return sha256_of(self.root / record_path(run.stage))


def load_state(root: Path) -> ProjectState:
    """
    Return the state of the project in `root`, by the records of its live runs.

    Raises:
        BadInputError: The pipeline has not run to its end at these parameters: the record of a stage is missing, or of another command.

        CorruptArtefactError: A record is damaged, or contradicts dvc.lock or another record.
    """
    graph = load_graph(root)
    missing = [live.name for live in graph.stages.values() if live.problem is None and live.record is None]
    if missing or not graph.stages:
        raise BadInputError(
            f"There is no record of a run of {_listed(missing) or 'any pipeline stage'}.",
            remedy="run: make repro (or dvc pull), then export again",
        )
    runs = _in_order([_checked(live, root) for live in graph.stages.values()])
    _require_whole_chain(runs)
    return ProjectState(
        root=root,
        about=_about(root),
        preset=str(read_yaml(root / PARAMETERS).get("preset", "unnamed")),
        steps=_steps(runs, {live.stage.group: live.stage.desc for live in graph.stages.values()}),
        runs=runs,
    )


def step_name(stage: str) -> str:
    """Return the entry of dvc.yaml's `stages` that a stage belongs to: `retrain` for `retrain@unet_s-0`."""
    return stage.partition("@")[0]


def utc(time: str) -> datetime:
    """Return a record's time in UTC, to the second."""
    return datetime.fromisoformat(time).astimezone(UTC).replace(microsecond=0)


def _checked(live: LiveStage, root: Path) -> RunRecord:
    """Return a stage's record, if it is of the run that dvc.lock holds and dvc.yaml asks for."""
    name, path, run = live.name, record_path(live.name), live.record
    if run is None:
        raise CorruptArtefactError(str(live.problem), remedy=f"run: dvc checkout --force {path}")
    locked = {} if live.locked is None else live.locked.outs
    made = {out.path: out.md5 for out in run.outs} | {path: md5_of(root / path)}
    wrong = sorted(out for out in {*made, *locked} if made.get(out) != locked.get(out))
    if run.stage != name or wrong:
        raise CorruptArtefactError(
            f"{path} is not the record of the run of {name} that dvc.lock holds: they differ in {_listed(wrong) or run.stage}.",
            where=root / path,
            remedy="run: dvc checkout --force (or make repro)",
        )
    changed = sorted(
        key for key in {*run.params, *live.stage.params} if run.params.get(key) != live.stage.params.get(key)
    )
    if run.command != live.stage.command or changed:
        raise BadInputError(
            f"{name} ran with another {'params.yaml: ' + _listed(changed) if changed else 'command'} than it has now.",
            remedy="run: make repro, then export again",
        )
    return run


def _require_whole_chain(runs: Iterable[RunRecord]) -> None:
    """Refuse runs of which one read another file than the one that its maker says it made."""
    made = {file.path: (file.sha256, run.stage) for run in runs for file in run.files_made()}
    for run in runs:
        for file in run.files_read():
            sha256, maker = made.get(file.path, (file.sha256, ""))
            if file.sha256 != sha256:
                raise CorruptArtefactError(
                    f"{run.stage} read another {file.path} than {maker} made.",
                    where=f"sha256 {file.sha256}, made was {sha256}",
                    remedy="run: make repro",
                )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _in_order(runs: list[RunRecord]) -> tuple[RunRecord, ...]:
    """Return runs behind those that they read from; runs of one depth by name."""
    upstream = {run.stage: [above.stage for above in run.upstream] for run in runs}
    depths: dict[str, int] = {}
    try:
        for name in TopologicalSorter(upstream).static_order():
            depths[name] = 1 + max((depths[above] for above in upstream.get(name, ())), default=0)
    except CycleError as error:
        raise CorruptArtefactError(
            f"The records say that runs read from each other in a circle: {' <- '.join(error.args[1])}.",
            remedy="run: make repro",
        ) from error
    return tuple(sorted(runs, key=lambda run: (depths[run.stage], run.stage)))


def _steps(runs: tuple[RunRecord, ...], descriptions: dict[str, str]) -> tuple[Step, ...]:
    grouped: dict[str, list[RunRecord]] = {}
    for run in runs:
        grouped.setdefault(step_name(run.stage), []).append(run)
    above = {
        name: sorted({step_name(up.stage) for run in group for up in run.upstream} - {name})
        for name, group in grouped.items()
    }
    positions: dict[str, int] = {}
    with suppress(CycleError):  # items of two steps may feed each other; the position is optional
        positions = {name: place for place, name in enumerate(TopologicalSorter(above).static_order(), start=1)}
    steps = [
        Step(
            name=name,
            description=descriptions[name],
            tool=group[0].argv[0],
            runs=tuple(group),
            position=positions.get(name),
        )
        for name, group in grouped.items()
    ]
    return tuple(sorted(steps, key=lambda step: (step.position or 0, step.name)))


def _about(root: Path) -> About:
    path = root / "CITATION.cff"
    cited: dict[str, Any] = read_yaml(path) if path.is_file() else {}
    return About(
        title=str(cited.get("title", root.name)),
        version=str(cited.get("version", "0")),
        licence=cited.get("license"),
        authors=tuple(_name(author) for author in cited.get("authors", ())) or ("unknown",),
        address=cited.get("repository-code"),
    )


def _name(author: dict[str, str]) -> str:
    return author.get("name") or " ".join(filter(None, (author.get("given-names"), author.get("family-names"))))


def upstream_first(state: ProjectState) -> Iterator[tuple[Step, RunRecord]]:
    """Yield every run with its step, a run behind those that it read from."""
    steps = {step.name: step for step in state.steps}
    for run in state.runs:
        yield steps[step_name(run.stage)], run
