"""
Kills at random: dvc, a stage or its child is killed (SIGKILL) amid a whole pipeline run, `dvc repro` is called again, and so on; at
the end every output is compared with that of a run that nobody disturbed.

Run:    python benchmarks/soak.py [--kills 20] [--seed 0] [--limit 600] [--project FOLDER] [--json benchmarks/results/soak.json]
Takes:  this project at the smoke preset, copied into a temporary folder; or another DVC project, copied as it is
Expect: some eight minutes; all kills, no output that differs, no process left behind, no hang; exit 1 otherwise
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from support.processes import Kind, tree, wait_until_gone
from support.report import Bar, Report

from dcnas_app.verifying import verify_outputs
from dcnas_harness.errors import DcnasError
from dcnas_harness.files import write_text
from dcnas_latency.identity import write_identity
from dcnas_lineage.lock import Lock
from dcnas_schema.params import load_params, read_yaml

_HERE = Path(__file__).resolve().parents[1]
_HANGS_S = 600.0
"""A run that is killed, or started again, and has not ended by then hangs."""
_ORPHANS_S = 10.0
"""So long after a kill the other processes may take to end."""
_STAGE = re.compile(r"^  ([^\s:]+):$", re.MULTILINE)
_HOLD_TIMES = ("data/runs/",)
"""Outputs that differ from run to run because they record times: run records. They are hashed against dvc.lock like all others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kill:
    """One kill."""

    after_s: float
    kind: Kind
    stage: str | None
    left_s: float
    """What was still to be done, by the stages' times in the undisturbed run."""
    exit_code: int


@dataclass(kw_only=True, slots=True)
class Soak:
    """What the kills led to."""

    kills: list[Kill] = field(default_factory=list)
    chains: int = 0
    """Projects that were brought to their end; a new one begins where kills are left."""
    differences: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    compared: int = 0
    hangs: int = 0
    orphans: int = 0
    lock_files_taken_back: int = 0
    """dvc.lock was cut short by a kill of dvc, which does not write it atomically, and was put back as of before."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the victims")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds after which no more kills come")
    parser.add_argument("--project", type=Path, help="another DVC project")
    parser.add_argument("--json", type=Path, help="file for the result")
    arguments = parser.parse_args()
    report = Report("soak", load_params(_HERE / "presets/smoke.yaml"), torch.device("cpu"))
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ |= {"DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(place / "site"), "DCNAS_LOCK_DIR": folder}
        fresh = place / "fresh"
        if arguments.project is None:
            _copy_project(fresh)
        else:
            shutil.copytree(arguments.project, fresh, symlinks=True)
        whole = shutil.copytree(fresh, place / "undisturbed", symlinks=True)
        steps = _undisturbed(whole)
        soak, chance = Soak(), random.Random(arguments.seed)
        while len(soak.kills) < arguments.kills and time.monotonic() - began < arguments.limit and not soak.hangs:
            soak.chains += 1
            root = shutil.copytree(fresh, place / f"killed {soak.chains}", symlinks=True)
            _chain(root, steps, soak, chance, lambda: _wanted(arguments, soak, began))
            if not soak.hangs:
                _compare(whole, root, soak)
        return _tell(report, arguments, soak, steps, time.monotonic() - began)


def _wanted(arguments: argparse.Namespace, soak: Soak, began: float) -> int:
    late = time.monotonic() - began >= arguments.limit
    return 0 if late else arguments.kills - len(soak.kills)


def _copy_project(target: Path) -> None:
    """Copy what Git knows or would know, but for tests, results and dvc.lock, with the smoke preset, into a repository of its own."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=_HERE,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (
            (_HERE / name).is_file()
            and not name.startswith(("tests/", "results/", "benchmarks/"))
            and name != "dvc.lock"
        ):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(_HERE / name, target / name)
    shutil.copyfile(_HERE / "presets/smoke.yaml", target / "params.yaml")
    write_identity(target / "data/device.json")
    identity = ["-c", "user.name=soak", "-c", "user.email=soak@example.invalid"]
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "copy"]):
        subprocess.run(["git", *identity, *command], cwd=target, check=True, capture_output=True)


def _start(root: Path) -> "subprocess.Popen[bytes]":
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with (root.parent / f"{root.name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro"],
            cwd=root,
            env={**os.environ, "PATH": tools},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """How long an undisturbed run takes."""

    start_s: float
    """Until the first stage is done, less what a stage takes: dvc's own start."""
    seconds: dict[str, float]
    """Stage -> time from the end of the stage before to its own."""

    def left_s(self, done: set[str]) -> float:
        """Return what the stages that are not done take."""
        return sum(seconds for stage, seconds in self.seconds.items() if stage not in done)


def _undisturbed(root: Path) -> Steps:
    """Run the project to its end and note when each stage entered dvc.lock."""
    process, began = _start(root), time.monotonic()
    moments: dict[str, float] = {}
    while process.poll() is None:
        for stage in _done(root) - moments.keys():
            moments[stage] = time.monotonic() - began
        time.sleep(0.1)
    for stage in _done(root) - moments.keys():
        moments[stage] = time.monotonic() - began
    if process.returncode != 0 or not moments:
        raise SystemExit(f"the undisturbed run failed:\n{_log(root)}")
    ends = sorted(moments.values())
    gaps = [later - earlier for earlier, later in pairwise(ends)] or ends
    start_s = max(0.0, ends[0] - sorted(gaps)[len(gaps) // 2])
    before, seconds = start_s, {}
    for stage, end in sorted(moments.items(), key=lambda item: item[1]):
        seconds[stage], before = max(end - before, 0.0), end
    return Steps(start_s=start_s, seconds=seconds)


def _done(root: Path) -> set[str]:
    """Return the stages in dvc.lock, read as text: it is asked ten times a second."""
    try:
        text = (root / "dvc.lock").read_text(encoding="utf-8")
    except FileNotFoundError:
        return set()
    return set(_STAGE.findall(text))


def _is_whole(lock: Path) -> bool:
    try:
        return isinstance(read_yaml(lock)["stages"], dict)
    except (DcnasError, KeyError, TypeError):
        return False


def _chain(root: Path, steps: Steps, soak: Soak, chance: random.Random, wanted: Callable[[], int]) -> None:
    """Start and kill runs of a project until none is wanted any more, then let it come to its end."""
    while wanted() and not soak.hangs:
        # spread over what is left: as much again for each of the kills to come, after the time that a start needs
        horizon = steps.start_s + 2 * steps.left_s(_done(root)) / (wanted() + 1)
        if _killed_run(root, chance.uniform(0, horizon), steps, soak, chance) == 0:
            return
    if soak.hangs:
        return
    process = _start(root)
    if _end(process, soak) not in (0, None):
        raise SystemExit(f"the last run, which nobody killed, failed:\n{_log(root)}")


def _killed_run(root: Path, after_s: float, steps: Steps, soak: Soak, chance: random.Random) -> int | None:
    """Start a run, kill one of its processes after a time, and wait until all of them are gone; return dvc's exit code."""
    lock = root / "dvc.lock"
    before = lock.read_bytes() if lock.exists() else None
    process = _start(root)
    with suppress(subprocess.TimeoutExpired):
        if process.wait(timeout=after_s) != 0:
            raise SystemExit(f"a run that nobody had killed yet failed:\n{_log(root)}")
        return 0
    left_s = steps.left_s(_done(root))
    kinds = {one.kind: one for one in sorted(tree(process.pid), key=lambda _: chance.random())}
    victim = kinds[chance.choice(sorted(kinds))]
    try:
        os.kill(victim.pid, signal.SIGKILL)
    except ProcessLookupError:  # it ended in this moment
        return _end(process, soak)
    code = _end(process, soak)
    kill = Kill(
        after_s=round(after_s, 2), kind=victim.kind, stage=victim.stage, left_s=round(left_s, 1), exit_code=code or 0
    )
    soak.kills.append(kill)
    print(
        f"kill {len(soak.kills)}: {kill.kind} {kill.stage or ''} after {after_s:.1f} s, {left_s:.0f} s left", flush=True
    )
    if lock.exists() and not _is_whole(lock):
        soak.lock_files_taken_back += 1
        lock.unlink() if before is None else lock.write_bytes(before)
    return code


def _end(process: "subprocess.Popen[bytes]", soak: Soak) -> int | None:
    """Wait for the end of a run and of all its processes; `None` where it hung."""
    try:
        code = process.wait(timeout=_HANGS_S)
    except subprocess.TimeoutExpired:
        soak.hangs += 1
        wait_until_gone(process.pid, 0)
        process.wait()
        return None
    soak.orphans += wait_until_gone(process.pid, _ORPHANS_S)
    return code


def _compare(whole: Path, root: Path, soak: Soak) -> None:
    """Hold every output against the undisturbed run's, by dvc.lock, and against its own hash, by its bytes."""
    expected, found = (
        {path: file.md5 for path, file in Lock(one).outputs.items() if not path.startswith(_HOLD_TIMES)}
        for one in (whole, root)
    )
    soak.compared += len(expected)
    soak.differences += [
        f"{path}: {found.get(path)}, not {md5}" for path, md5 in expected.items() if found.get(path) != md5
    ]
    soak.differences += [f"{path}: not made by the undisturbed run" for path in found.keys() - expected.keys()]
    for one in (whole, root):
        soak.damaged += [f"{damage.path}: {damage.problem}" for damage in verify_outputs(one).damages]
    soak.left_over += [
        str(path.relative_to(root)) for top in ("data", "results") for path in (root / top).rglob("*.tmp")
    ]


def _log(root: Path) -> str:
    return (root.parent / f"{root.name}.log").read_text(errors="replace")[-4000:]


def _tell(report: Report, arguments: argparse.Namespace, soak: Soak, steps: Steps, seconds: float) -> int:
    kinds = Counter(kill.kind for kill in soak.kills)
    stages = Counter((kill.stage or "none").split("@")[0] for kill in soak.kills)
    rows: list[tuple[str, object]] = [
        ("kills", len(soak.kills)),
        *((f"  of {kind}", count) for kind, count in sorted(kinds.items())),
        ("stages hit", ", ".join(sorted(stages.keys() - {"none"})) or "none"),
        ("runs brought to their end", soak.chains),
        ("outputs compared", soak.compared),
        ("outputs that differ", len(soak.differences)),
        ("files that are not what dvc.lock says", len(soak.damaged)),
        ("parts of files left", len(soak.left_over)),
        ("hangs", soak.hangs),
        ("processes left behind", soak.orphans),
        ("dvc.lock cut short and taken back", soak.lock_files_taken_back),
        ("undisturbed run [s]", round(steps.start_s + steps.left_s(set()))),
        ("all [s]", round(seconds)),
    ]
    wrong = len(soak.differences) + len(soak.damaged) + len(soak.left_over)
    bars = [
        Bar(what="kills", value=len(soak.kills), sense="at least", limit=arguments.kills),
        Bar(what="outputs that differ, are damaged or in part", value=wrong, sense="at most", limit=0),
        Bar(what="hangs and processes left behind", value=soak.hangs + soak.orphans, sense="at most", limit=0),
    ]
    results: dict[str, Any] = {
        **asdict(soak),
        "kills": [asdict(kill) for kill in soak.kills],
        "kills_by_kind": dict(sorted(kinds.items())),
        "kills_by_stage": dict(sorted(stages.items())),
        "seed": arguments.seed,
        "not_compared": "run records below data/runs, which hold times; the smoke preset measures no latency",
        "undisturbed_s": {stage: round(taken, 2) for stage, taken in steps.seconds.items()},
        "seconds": round(seconds, 1),
    }
    report.finish(("", ""), rows, bars, results, arguments.json)
    if arguments.json is not None:
        write_text(arguments.json.with_suffix(".md"), _markdown(rows))
    for problem in (*soak.differences, *soak.damaged, *soak.left_over):
        print(problem)
    return 0 if all(bar.met for bar in bars) else 1


def _markdown(rows: list[tuple[str, object]]) -> str:
    lines = [f"| {name.strip()} | {value} |" for name, value in rows]
    return "\n".join(["| Soak | |", "| --- | --- |", *lines, ""])


if __name__ == "__main__":
    sys.exit(main())
