"""What one run of a pipeline stage reads and makes, looked at before and after, and written down as its run record."""

import os
import shlex
import shutil
import time
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dcnas_harness.errors import BadInputError, CorruptArtefactError, UnfitEnvironmentError
from dcnas_harness.files import sha256_of
from dcnas_lineage.gitstate import git_state
from dcnas_lineage.hashing import Hasher
from dcnas_lineage.machine import read_environment, read_machine, read_state
from dcnas_lineage.pipeline import PIPELINE, PipelineStage, load_pipeline
from dcnas_schema.json_files import read_json_record, write_json_record
from dcnas_schema.run_record import HashedPath, RunRecord, UpstreamRun, record_path

_PREFECT = ("PREFECT__FLOW_RUN_ID", "PREFECT__TASK_RUN_ID")
_AGAIN = "run: dvc repro (or dvc pull)"


class Recording:
    """
    A run that has begun: what it reads is hashed, and the record of an earlier run is gone.

    Args:
        root: The project's folder.

        name: The pipeline stage.

        argv: Module and arguments that are about to run.

    Raises:
        BadInputError: dvc.yaml has no such stage, or another command for it.

        CorruptArtefactError: Something that it reads is missing, or is not what the record of its maker says.
    """

    def __init__(self, root: Path, name: str, argv: tuple[str, ...]) -> None:
        self._started, self._clock = _now(), time.monotonic()
        pipeline = load_pipeline(root, keep=True)
        self._root, self._argv, self._stage = root, argv, pipeline.stage(name)
        _require_command(self._stage, argv)
        self._record = root / record_path(name)
        self._record.unlink(missing_ok=True)
        self._gpu = "device" in self._stage.meta.get("resources", {})
        self._before = read_state(gpu=self._gpu)
        self._hasher = Hasher(root)
        self._deps = tuple(self._hasher.required(dep, remedy=_AGAIN) for dep in self._stage.deps)
        self._upstream = tuple(_upstream_runs(root, pipeline.upstream(name), self._deps))
        self._git, self._environment = git_state(root), read_environment(root)

    def finish(self) -> RunRecord:
        """
        Look again, and write the record: last of all outputs, and atomically.

        Raises:
            UnfitEnvironmentError: Code, data or parameters changed while it ran, so that nobody knows which the outputs are of; they
                are removed.

            CorruptArtefactError: The stage ended well without an output that dvc.yaml promises.
        """
        self._hasher.again()
        after = {dep: self._hasher.path(dep) for dep in self._stage.deps}
        changed = [dep.path for dep in self._deps if after[dep.path] != dep]
        changed += [f"params.yaml: {key}" for key in self._changed_params()]
        if changed:
            self._remove_outputs()
            raise UnfitEnvironmentError(
                f"{', '.join(changed)} changed while {self._stage.name} ran, so nobody knows which its outputs are of; they are removed.",
                remedy="run the same command again",
            )
        record = self._record_of(self._made())
        write_json_record(self._record, record)
        return record

    def _changed_params(self) -> list[str]:
        now = load_pipeline(self._root, keep=True).stages.get(self._stage.name)
        if now is None:
            return ["the stage is no longer in it"]
        return [key for key, value in self._stage.params.items() if now.params.get(key) != value]

    def _made(self) -> tuple[HashedPath, ...]:
        remedy = f"correct {PIPELINE}, or the stage: it ended well without it"
        outs = [out for out in self._stage.outs if out != record_path(self._stage.name)]
        return tuple(self._hasher.required(out, remedy=remedy) for out in outs)

    def _remove_outputs(self) -> None:
        for out in self._stage.outs:
            path = self._root / out
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _record_of(self, outs: tuple[HashedPath, ...]) -> RunRecord:
        return RunRecord(
            run_id=uuid.uuid4().hex,
            stage=self._stage.name,
            command=self._stage.command,
            argv=self._argv,
            params=self._stage.params,
            seed=seed_of(self._argv, self._stage.params),
            deps=self._deps,
            deps_after={dep.path: dep.sha256 for dep in self._deps},
            outs=outs,
            upstream=self._upstream,
            git=self._git,
            environment=self._environment,
            machine=read_machine(gpu=self._gpu),
            before=self._before,
            after=read_state(gpu=self._gpu),
            started=self._started,
            ended=_now(),
            seconds=round(time.monotonic() - self._clock, 3),
            dvc_stage=os.environ.get("DVC_STAGE"),
            prefect={name: os.environ[name] for name in _PREFECT if name in os.environ},
        )


def command_words(command: str) -> list[str]:
    """Return the words of a stage's command in dvc.yaml, without `exec`."""
    words = shlex.split(command)
    return words[1:] if words[:1] == ["exec"] else words


def seed_of(argv: Iterable[str], params: dict[str, Any]) -> int | None:
    """Return the run's one seed: what follows `--seed`, else the only `seed` of the parameters; `None` where there is none or several."""
    words = list(argv)
    if "--seed" in words[:-1]:
        return int(words[words.index("--seed") + 1])
    found = {
        value["seed"] for value in params.values() if isinstance(value, dict) and isinstance(value.get("seed"), int)
    }
    return found.pop() if len(found) == 1 else None


def _require_command(stage: PipelineStage, argv: tuple[str, ...]) -> None:
    wanted = command_words(stage.command)[1:]
    if wanted != ["-m", "dcnas_lineage.run", stage.name, "--", *argv]:
        raise BadInputError(
            f"{PIPELINE} has another command for {stage.name}, whose record this would be.",
            where=stage.command,
            remedy=f"give its arguments, or run the stage without a record: python -m {shlex.join(argv)}",
        )


def _upstream_runs(root: Path, names: Iterable[str], deps: Iterable[HashedPath]) -> Iterable[UpstreamRun]:
    read = {file.path: file.sha256 for dep in deps for file in dep.files}
    for name in names:
        path = root / record_path(name)
        if not path.is_file():
            continue  # its maker ran without a record; an audit says so
        record = read_json_record(
            path, RunRecord, remedy=f"run: dvc checkout {record_path(name)} (or dvc repro {name})"
        )
        wrong = [file.path for file in record.files_made() if read.get(file.path, file.sha256) != file.sha256]
        if wrong:
            raise CorruptArtefactError(
                f"{', '.join(wrong)} is not what the run record of {name} says that it made.",
                where=record_path(name),
                remedy=f"run: dvc repro {name}",
            )
        yield UpstreamRun(stage=name, run_id=record.run_id, sha256=sha256_of(path), claim_sha256=record.claim_sha256)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
