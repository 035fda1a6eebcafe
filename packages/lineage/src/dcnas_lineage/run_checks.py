"""
Does the run that made a file hold: its record against dvc.yaml, dvc.lock, the files, the code's history, the machine and its neighbours.

One look a pipeline stage and walk, however many cells come from it; a file is hashed once.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dcnas_harness.files import sha256_of
from dcnas_lineage.gitstate import History
from dcnas_lineage.graph import LiveGraph, LiveStage
from dcnas_lineage.hashing import Hasher
from dcnas_lineage.lock import LockedStage
from dcnas_lineage.recording import command_words
from dcnas_lineage.store import Store
from dcnas_lineage.verdict import Verdict
from dcnas_schema.run_record import HashedPath, RunRecord

_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One edge that does not hold."""

    verdict: Verdict
    edge: str
    """Between what and what."""
    problem: str


Findings = Iterator[Finding]


class RunChecks:
    """
    The checks of all runs of a graph, each made once and only where it is asked for.

    Args:
        history: `None` outside a git checkout.

        store: Where DVC keeps objects; its copies are hashed too.
    """

    def __init__(self, graph: LiveGraph, hasher: Hasher, history: History | None, store: Store) -> None:
        self.graph, self._hasher, self._history, self._store = graph, hasher, history, store
        self._found: dict[str, tuple[Finding, ...]] = {}
        self._paths: dict[str, HashedPath | None] = {}

    def of(self, name: str) -> tuple[Finding, ...]:
        """Return what does not hold of the last run of a pipeline stage; nothing where all does."""
        if name not in self._found:
            self._found[name] = tuple(self._check(self.graph.stages[name]))
        return self._found[name]

    def hashed(self, path: str) -> HashedPath | None:
        """Return the hashes of a file or folder as it lies there; `None` where it does not."""
        if path not in self._paths:
            self._paths[path] = self._hasher.path(path)
        return self._paths[path]

    def _check(self, live: LiveStage) -> Findings:
        for flag in live.stage.loose:
            yield Finding(
                verdict=Verdict.UNVERIFIABLE,
                edge=f"dvc.yaml -> {live.name}",
                problem=f"it is marked {flag}, so its outputs may be of another run",
            )
        if live.locked is None or live.record is None:
            yield self._absent(live)
            return
        checks: tuple[Callable[[LiveStage, LockedStage, RunRecord], Findings], ...] = (
            self._record_file,
            self._lock_against_record,
            self._outputs,
            self._workspace,
            self._chain,
            self._code,
            self._environment,
            self._neighbours,
        )
        for check in checks:
            yield from check(live, live.locked, live.record)

    def _absent(self, live: LiveStage) -> Finding:
        if live.problem is not None:
            return _broken(f"{live.stage.record} -> {live.name}", live.problem)
        if live.locked is None and live.record is not None:
            return _broken(f"dvc.lock -> {live.name}", "dvc.lock has no entry of it, though its run left a record")
        lacking = "dvc.lock has no entry of it" if live.locked is None else "there is no run record of it"
        return Finding(verdict=Verdict.UNVERIFIABLE, edge=f"run record -> {live.name}", problem=lacking)

    def _record_file(self, live: LiveStage, locked: LockedStage, record: RunRecord) -> Findings:
        path = live.stage.record or ""
        hashed = self.hashed(path)
        if record.stage != live.name:
            yield _broken(f"{path} -> {live.name}", f"it is the record of {record.stage}")
        elif hashed is not None and locked.outs.get(path) != hashed.md5:
            yield _broken(f"{path} -> dvc.lock", f"its md5 is {hashed.md5}, dvc.lock says {locked.outs.get(path)}")

    def _lock_against_record(self, live: LiveStage, locked: LockedStage, record: RunRecord) -> Findings:
        edge = f"dvc.lock -> run record of {live.name}"
        if locked.command != record.command:
            yield _broken(edge, f"dvc.lock says that {locked.command!r} ran, the record {record.command!r}")
        if command_words(record.command)[5:] != list(record.argv):
            yield _broken(edge, f"the record's arguments {' '.join(record.argv)!r} are not those of its command")
        for key in sorted({*locked.params, *record.params}):
            if locked.params.get(key) != record.params.get(key):
                yield _broken(edge, f"dvc.lock says that parameter {key} was another one than the record")
        recorded = {dep.path: dep.md5 for dep in record.deps}
        yield from _unequal(edge, "read", locked.deps, recorded)
        made = {path: md5 for path, md5 in locked.outs.items() if path != live.stage.record}
        yield from _unequal(edge, "made", made, {out.path: out.md5 for out in record.outs})
        for dep in record.deps:
            if record.deps_after.get(dep.path) != dep.sha256:
                yield _broken(f"{dep.path} -> {live.name}", "the record itself says that it changed during the run")

    def _outputs(self, live: LiveStage, locked: LockedStage, record: RunRecord) -> Findings:
        del locked
        for out in record.outs:
            edge = f"{live.name} -> {out.path}"
            hashed = self.hashed(out.path)
            if hashed is None:
                where = self._store.whereabouts(out.md5)
                yield Finding(verdict=Verdict.UNVERIFIABLE, edge=edge, problem=f"the file is missing ({where})")
            elif hashed.sha256 != out.sha256 or hashed.md5 != out.md5:
                names = _differing(hashed, out)
                yield _broken(edge, f"{names}: its sha256 is not the one that the run record holds")
        for file in record.files_made():
            for problem in self._store.problems(file.md5, file.sha256):
                yield Finding(verdict=problem.verdict, edge=f"{live.name} -> {file.path}", problem=problem.text)

    def _workspace(self, live: LiveStage, locked: LockedStage, record: RunRecord) -> Findings:
        """What dvc.yaml, params.yaml and the files say now: other than then means that they have moved on."""
        if live.stage.command != locked.command:
            yield _stale(f"dvc.yaml -> {live.name}", "its command is another one now")
        for key, value in live.stage.params.items():
            if locked.params.get(key) != value:
                yield _stale(f"params.yaml -> {live.name}", f"parameter {key} is another one now")
        if set(live.stage.deps) != set(locked.deps):
            yield _stale(f"dvc.yaml -> {live.name}", "what it reads is another list now")
        for dep in record.deps:
            yield from self._moved_on(live, record, dep)

    def _moved_on(self, live: LiveStage, record: RunRecord, dep: HashedPath) -> Findings:
        edge = f"{dep.path} -> {live.name}"
        now = self.hashed(dep.path)
        if now is not None and now.sha256 == dep.sha256:
            return
        makers = [name for name in live.upstream if _between(self.graph.stages[name], dep.path)]
        if not makers:
            if self._history is not None and self._history.ignores(dep.path):
                return  # says which machine it was; on another one there is another
            yield _stale(edge, "it is gone" if now is None else f"{_differing(now, dep)} changed since")
        elif now is None:
            yield Finding(verdict=Verdict.UNVERIFIABLE, edge=edge, problem="what it read is missing (dvc pull)")
        elif any(self._made_anew(name, record) for name in makers):
            yield _stale(edge, f"{_differing(now, dep)} was made anew since")
        else:
            yield _broken(edge, f"it read another {_differing(now, dep)} than lies there")

    def _made_anew(self, maker: str, reader: RunRecord) -> bool:
        """Return whether a stage ran again, and well, after its reader."""
        live = self.graph.stages[maker]
        if live.record is None or any(finding.verdict is Verdict.BROKEN for finding in self.of(maker)):
            return False
        seen = {run.stage: run.run_id for run in reader.upstream}
        return seen.get(maker) not in (None, live.record.run_id) and _time(live.record.started) >= _time(reader.started)

    def _chain(self, live: LiveStage, locked: LockedStage, record: RunRecord) -> Findings:
        del locked
        seen = {run.stage: run for run in record.upstream}
        for name in live.upstream:
            above, edge = self.graph.stages[name], f"run record of {name} -> run record of {live.name}"
            if name not in seen:
                yield Finding(verdict=Verdict.UNVERIFIABLE, edge=edge, problem=f"it read no run record of {name}")
            elif above.record is None:
                continue  # the maker's own finding
            elif above.record_sha256 == seen[name].sha256:
                continue
            elif above.record.run_id == seen[name].run_id:
                yield _broken(edge, "the record of the same run was another one when it was read: it was edited since")
            elif above.record.claim_sha256 != seen[name].claim_sha256:
                if self._made_anew(name, record):
                    yield _stale(edge, f"{name} ran again since, in another way")
                else:
                    yield _broken(edge, "it read the record of another run")

    def _code(self, live: LiveStage, locked: LockedStage, record: RunRecord) -> Findings:
        del locked
        edge = f"commit -> {live.name}"
        commit, history = record.git.commit, self._history
        if commit is None or history is None:
            yield Finding(verdict=Verdict.UNVERIFIABLE, edge=edge, problem="the commit of its code is unknown")
            return
        if not history.has(commit):
            text = f"commit {commit[:12]} is not in the history of HEAD"
            yield Finding(verdict=Verdict.UNVERIFIABLE, edge=edge, problem=text)
            return
        for dep in record.deps:
            if not any(_between(self.graph.stages[name], dep.path) for name in live.upstream):
                yield from self._sources(history, commit, record, dep, edge)

    def _sources(self, history: History, commit: str, record: RunRecord, dep: HashedPath, edge: str) -> Findings:
        for file in dep.files:
            if history.sha256_at(commit, file.path) == file.sha256:
                continue
            if history.head is not None and history.sha256_at(history.head, file.path) == file.sha256:
                continue  # committed after the run
            dirty = f"{history.prefix}{file.path}" in (record.git.dirty or ())
            if not dirty and history.sha256_at(commit, file.path) is not None:
                yield _broken(edge, f"commit {commit[:12]} holds another {file.path} than the run read")
            elif not history.ignores(file.path):
                text = f"{file.path} was not committed when it ran, nor as it was then since"
                yield Finding(verdict=Verdict.UNVERIFIABLE, edge=edge, problem=text)

    def _environment(self, live: LiveStage, locked: LockedStage, record: RunRecord) -> Findings:
        del locked
        edge, path = f"requirements.lock -> {live.name}", self.graph.root / "requirements.lock"
        if not path.is_file():
            return
        if record.environment.requirements_lock_sha256 != sha256_of(path):
            yield _stale(edge, "the lock of packages is another one now")
            return
        pins: dict[str, set[str]] = {}
        for name, pin in _PIN.findall(path.read_text(encoding="utf-8")):  # one package, several versions of Python
            pins.setdefault(name.lower(), set()).add(pin.partition("+")[0])
        for package, version in record.environment.versions.items():
            if package in pins and version.partition("+")[0] not in pins[package]:
                told = " or ".join(sorted(pins[package]))
                yield _broken(edge, f"it ran with {package} {version}, the lock of packages says {told}")

    def _neighbours(self, live: LiveStage, locked: LockedStage, record: RunRecord) -> Findings:
        """Who timed must have been alone on the machine."""
        del locked
        if not live.stage.meta.get("timing"):
            return
        for other in self.graph.stages.values():
            if other.record is None or other.name == live.name or other.record.machine.host != record.machine.host:
                continue
            start = max(_time(record.started), _time(other.record.started))
            end = min(_time(record.ended), _time(other.record.ended))
            if start < end:
                text = f"{other.name} ran on the same machine from {start:%H:%M:%S} to {end:%H:%M:%S} while it timed"
                yield _broken(f"machine -> {live.name}", text)


def _broken(edge: str, problem: str) -> Finding:
    return Finding(verdict=Verdict.BROKEN, edge=edge, problem=problem)


def _stale(edge: str, problem: str) -> Finding:
    return Finding(verdict=Verdict.STALE, edge=edge, problem=problem)


def _unequal(edge: str, verb: str, locked: dict[str, str], recorded: dict[str, str]) -> Findings:
    for path in sorted({*locked, *recorded}):
        if locked.get(path) != recorded.get(path):
            told = f"dvc.lock says {locked.get(path)}, the record {recorded.get(path)}"
            yield _broken(edge, f"what it {verb} as {path}: {told}")


def _between(maker: LiveStage, path: str) -> bool:
    """Return whether a stage makes `path`, something in it, or a folder around it."""
    pure = Path(path)
    return any(pure.is_relative_to(out) or Path(out).is_relative_to(pure) for out in maker.stage.outs)


def _differing(now: HashedPath, then: HashedPath) -> str:
    """Name the file that differs: the path itself, or the first of a folder."""
    before = {file.path: file.sha256 for file in then.files}
    after = {file.path: file.sha256 for file in now.files}
    names = sorted(path for path in {*before, *after} if before.get(path) != after.get(path))
    return names[0] if names else now.path


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
