"""
The lies that the audit must catch, each with its verdict and the edge that must be named, and the changes that are none.

Run:    python tests/tamper/tampers.py
Expect: the matrix as a Markdown table, made by running all of it (a minute or two)
"""

import os
import shutil
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tamper_forging import (
    EVALUATE,
    LUT,
    MODEL,
    OTHER_RECORD,
    OTHER_WEIGHTS,
    RECORD,
    REFERENCE,
    RETRAIN,
    TABLE,
    WEIGHTS,
    cell_of,
    edit_json,
    edit_lock,
    flip,
    forge_all,
    forge_cells,
    forge_record,
    object_of,
    relock,
    replace,
)
from tamper_project import attempt, commit, new_project, run

from dcnas_lineage.project_audit import Audited, audit_tables, known_figures, known_tables
from dcnas_lineage.verdict import Verdict, worst
from dcnas_schema.parquet import read_parquet, with_metadata, write_parquet
from dcnas_schema.records import RECORD as RECORD_SCHEMA
from dcnas_schema.records import EvaluationMetadata
from dcnas_schema.run_record import record_path

HOLDS, STALE, UNVERIFIABLE, BROKEN = Verdict.HOLDS, Verdict.STALE, Verdict.UNVERIFIABLE, Verdict.BROKEN


@dataclass(frozen=True)
class Tamper:
    """One lie, or one change that is none."""

    name: str
    verdict: Verdict
    edge: str
    """What the first failing link names, in its name or its problem; empty where all holds."""
    do: Callable[[Path], object]
    remote: bool = False
    """Whether the audit is asked for the remote too."""


def audited(root: Path, *, remote: bool = False) -> list[Audited]:
    """Return every cell of every table with its verdict."""
    fetch = _fetch(root.parent / "remote") if remote else None
    return list(audit_tables(root, known_tables(root), known_figures(root), remote=fetch))


def outcome(cells: list[Audited]) -> tuple[Verdict, str]:
    """Return the worst verdict of all cells, and what the walk of the first such cell blames."""
    whole = worst(cell.verdict for cell in cells)
    blamed = [cell for cell in cells if cell.verdict is whole]
    first = next((cell for cell in blamed if cell.links[0].problem), blamed[0])  # a cell that is itself to blame
    link = first.failing
    return whole, "" if link is None else f"{link.what}: {link.problem}"


def _fetch(remote: Path) -> Callable[[str], Iterator[bytes] | None]:
    def fetch(md5: str) -> Iterator[bytes] | None:
        path = remote / "files/md5" / md5[:2] / md5[2:]
        return iter([path.read_bytes()]) if path.is_file() else None

    return fetch


def _again(root: Path, name: str) -> None:
    """Run a stage by its command in dvc.yaml, without DVC, and lock it."""
    from dcnas_lineage.pipeline import load_pipeline

    stage = load_pipeline(root).stage(name)
    run(["sh", "-c", stage.command], root)
    edit_lock(root, lambda locked: locked[name].update(params={"params.yaml": stage.params}))
    relock(root, name)


def _drop_object(root: Path) -> None:
    object_of(root, WEIGHTS).unlink()
    (root / WEIGHTS).unlink()


def _forget_history(root: Path) -> None:
    run(["git", "checkout", "--quiet", "--orphan", "new"], root)
    commit(root, "all anew")


def _run_on_a_dirty_tree(root: Path) -> None:
    with (root / "mini_stages/mini_profile/__main__.py").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    _again(root, "profile_latency")


def _params_of_another_run(root: Path) -> None:
    replace(root / "params.yaml", "learning_rate: 1.0e-3 ", "learning_rate: 2.0e-3 ")

    def change(locked: dict[str, dict[str, dict[str, dict[str, dict[str, float]]]]]) -> None:
        for seed in (0, 1):
            locked[f"retrain@{MODEL}-{seed}"]["params"]["params.yaml"]["retrain"]["learning_rate"] = 2.0e-3

    edit_lock(root, change)


def _code_of_another_run(root: Path) -> None:
    with (root / "stages/tabulate/src/dcnas_tabulate/labels.py").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    relock(root, "tabulate")


def _undeclared_input(root: Path) -> None:
    replace(root / "dvc.yaml", "      - data/profile_latency/lut.json\n", "")
    commit(root, "forgot the table")
    edit_lock(root, lambda locked: _without(locked[EVALUATE], LUT))
    _again(root, EVALUATE)


def _without(locked: dict[str, list[dict[str, str]]], path: str) -> None:
    locked["deps"] = [dep for dep in locked["deps"] if dep["path"] != path]


def _cell(column: str, key: str, value: object) -> Callable[[Path], None]:
    return lambda root: forge_cells(root, lambda cells: cell_of(cells, column).update({key: value}))


def _round_otherwise(root: Path) -> None:
    def change(cells: dict[str, list[dict[str, str]]]) -> None:
        cell = cell_of(cells, "PSNR (dB)")
        old, new = cell["text"], " ± ".join(part[:-1] for part in cell["text"].split(" ± "))
        cell["text"] = new
        replace(root / TABLE, old, new.ljust(len(old)))

    forge_cells(root, change)


def _drop_a_seed(root: Path) -> None:
    def change(cells: dict[str, list[dict[str, list[str] | str]]]) -> None:
        cell = cell_of(cells, "PSNR (dB)")
        old = cell["text"]
        cell["sources"] = [RECORD]
        from dcnas_lineage.cells import derive
        from dcnas_schema.cells import Cell

        cell["text"] = derive(Cell.model_validate(cell), confidence=0.95, root=root).text
        replace(root / TABLE, old, cell["text"].ljust(len(old)))

    forge_cells(root, change)


def _another_device(root: Path) -> None:
    """Let the second seed's record say that another device timed it."""
    path = root / OTHER_RECORD
    table, metadata = read_parquet(path, RECORD_SCHEMA, EvaluationMetadata)
    device = metadata.provenance.device.model_copy(update={"name": "Faster CPU"})
    provenance = metadata.provenance.model_copy(update={"device": device})
    changed = metadata.model_copy(update={"provenance": provenance})
    write_parquet(path, with_metadata(RECORD_SCHEMA, changed), table.to_batches())
    forge_cells(root, lambda _: None)


def _another_unit(root: Path) -> None:
    replace(root / TABLE, "Latency (ms)", "Latency (µs)")
    forge_all(root)


def _swap_rows(root: Path) -> None:
    path = root / TABLE
    lines = path.read_text(encoding="utf-8").splitlines()
    first, second = (number for number, line in enumerate(lines) if line.startswith(("| noisy input", "| DC-Net")))
    names = [lines[number].split("|")[1] for number in (first, second)]
    lines[first] = lines[first].replace(names[0], names[1], 1)
    lines[second] = lines[second].replace(names[1], names[0], 1)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _new_lut(root: Path) -> None:
    replace(root / "params.yaml", "warm_calls: 1 ", "warm_calls: 2 ")
    _again(root, "profile_latency")
    commit(root, "profiled anew")


def _invented_lock(root: Path) -> None:
    edit_lock(root, lambda locked: [out.update(md5="0" * 32) for out in locked[RETRAIN]["outs"]])


def _remove_the_seed(root: Path) -> None:
    replace(root / "params.yaml", "seeds: [0, 1]", "seeds: [0]")


def _loose(flag: str) -> Callable[[Path], None]:
    old = "      - data/retrain/${item.model}/${item.seed}/weights.safetensors\n      - data/retrain/${item.model}/${item.seed}/log"
    if flag == "frozen":
        return lambda root: replace(root / "dvc.yaml", "  retrain:\n", "  retrain:\n    frozen: true\n")
    new = old.replace("safetensors\n", "safetensors: {persist: true}\n")
    return lambda root: replace(root / "dvc.yaml", f"    outs:\n{old}", f"    outs:\n{new}")


TAMPERS = (
    Tamper("1 checkpoint edited, same size and time", BROKEN, WEIGHTS, lambda r: flip(r / WEIGHTS, keep_times=True)),
    Tamper("2 object in the cache corrupted, still 0444", BROKEN, "cache holds", lambda r: flip(object_of(r, WEIGHTS))),
    Tamper(
        "3 object on the remote corrupted", BROKEN, "remote holds",
        lambda r: flip(object_of(r, WEIGHTS, "../remote")), remote=True,
    ),
    Tamper(
        "4 output forged, then dvc commit -f", BROKEN, "dvc.lock -> run record of",
        lambda r: (flip(r / WEIGHTS), relock(r)),
    ),
    Tamper("5a parameter edited while a stage ran", BROKEN, f"dvc.lock -> run record of {RETRAIN}", _params_of_another_run),
    Tamper("5b code edited while a stage ran", BROKEN, "dvc.lock -> run record of tabulate", _code_of_another_run),
    Tamper("6 checkpoint kept over runs (persist)", UNVERIFIABLE, "persist", _loose("persist")),
    Tamper("7 stage frozen", UNVERIFIABLE, "frozen", _loose("frozen")),
    Tamper(
        "8a library changed", STALE, "requirements.lock",
        lambda r: replace(r / "requirements.lock", "numpy==", "numpy==9."),
    ),
    Tamper("8b input that dvc.yaml does not list", BROKEN, f"dvc.lock does not say that {EVALUATE}", _undeclared_input),
    Tamper("9 entry of a removed stage in dvc.lock", BROKEN, OTHER_RECORD, _remove_the_seed),
    Tamper(
        "10a cell typed by hand", BROKEN, "the table prints",
        lambda r: replace(r / TABLE, " 12345 " if " 12345 " in (r / TABLE).read_text() else " 2.50 ", " 1.50 "),
    ),
    Tamper("10b cell rounded differently, all else agreeing", BROKEN, "derived again", _round_otherwise),
    Tamper(
        "11 run record edited together with dvc.lock", BROKEN, f"run record of {RETRAIN}",
        lambda r: forge_record(r, RETRAIN, lambda record: record.update(seed=7)),
    ),
    Tamper("12a commit rewritten", UNVERIFIABLE, "not in the history of HEAD", _forget_history),
    Tamper("12b run on a dirty tree", UNVERIFIABLE, "was not committed", _run_on_a_dirty_tree),
    Tamper(
        "13 latency whose run record names another device, all else agreeing", BROKEN, "made on",
        lambda r: (
            edit_json(r / record_path(EVALUATE), lambda record: record["machine"].update(cpu_model="Other CPU")),
            forge_all(r),
        ),
    ),
    Tamper(
        "14 two stages at the same time on one device", BROKEN, "on the same machine",
        lambda r: (_overlap(r), forge_all(r)),
    ),
    Tamper(
        "15 dvc.lock cut short", BROKEN, "dvc.lock",
        lambda r: (r / "dvc.lock").write_text((r / "dvc.lock").read_text()[:1500]),
    ),
    Tamper("16 file missing here, there on the remote", UNVERIFIABLE, WEIGHTS, _drop_object),
    Tamper("17 unit swapped, all else agreeing", BROKEN, "the table prints", _another_unit),
    Tamper("18 seed dropped, all else agreeing", BROKEN, f"leaves out {OTHER_RECORD}", _drop_a_seed),
    Tamper("19 rows swapped", BROKEN, "the table prints", _swap_rows),
    Tamper("20 seeds timed on different devices, all else agreeing", BROKEN, "several devices", _another_device),
    Tamper(
        "21 figure edited", BROKEN, "results/figures",
        lambda r: replace(r / "results/figures/curves_light.svg", "<path", "<Path"),
    ),
    Tamper("23 reference value edited", STALE, REFERENCE, lambda r: replace(r / REFERENCE, "29.9", "19.9")),
    Tamper("24a latency table made anew, nets not timed again", STALE, LUT, _new_lut),
    Tamper("24b latency table edited", BROKEN, LUT, lambda r: replace(r / LUT, "4", "3")),
    Tamper(
        "25 checkpoint of another seed", BROKEN, WEIGHTS, lambda r: shutil.copyfile(r / OTHER_WEIGHTS, r / WEIGHTS)
    ),
    Tamper("26 dvc.lock written by hand", BROKEN, f"dvc.lock says {'0' * 32}", _invented_lock),
    Tamper(
        "27 run record deleted", UNVERIFIABLE, "no run record", lambda r: (r / record_path(RETRAIN)).unlink()
    ),
    Tamper(
        "28 run record of another stage", BROKEN, f"run record of {RETRAIN}",
        lambda r: shutil.copyfile(r / record_path(EVALUATE), r / record_path(RETRAIN)),
    ),
    Tamper(
        "29 parameter of a finished run changed", STALE, "params.yaml",
        lambda r: replace(r / "params.yaml", "learning_rate: 1.0e-3 ", "learning_rate: 3.0e-3 "),
    ),
    Tamper(
        "30 mark of a better value set by hand, all else agreeing", BROKEN, "the table prints",
        _cell("SSIM", "marked_better", True),
    ),
    Tamper(
        "31 source of a cell changed to another seed's record twice", BROKEN, "leaves out",
        _cell("SSIM", "sources", [RECORD, RECORD]),
    ),
)  # fmt: skip


def _overlap(root: Path) -> None:
    import json

    times = json.loads((root / record_path(EVALUATE)).read_bytes())
    edit_json(
        root / record_path("profile_latency"),
        lambda record: record.update(started=times["started"], ended=times["ended"]),
    )


def _clone(root: Path) -> None:
    """Put a fresh clone in the project's place, with nothing but what a pull brings."""
    shutil.rmtree(root / ".dvc/cache")
    run(["git", "clone", "--quiet", str(root), str(root.parent / "clone")], root.parent)
    shutil.rmtree(root)
    (root.parent / "clone").rename(root)
    run(["dvc", "pull", "--quiet"], root)


def _touch(root: Path) -> None:
    for path in root.rglob("*"):
        if path.is_file() and ".git" not in path.parts:
            os.utime(path, (1, 1))


def _reorder(root: Path) -> None:
    edit_lock(root, lambda locked: [locked.update({name: locked.pop(name)}) for name in sorted(locked, reverse=True)])


def _restore(root: Path) -> None:
    """Forget what ran, and have DVC's run cache give it back."""
    (root / "dvc.lock").unlink()
    for name in ("retrain", "evaluate", "runs"):
        shutil.rmtree(root / "data" / name)
    done = attempt(["dvc", "repro"], root)
    assert done.returncode == 0, done.stderr
    assert "is cached" in done.stdout
    assert "Running stage 'retrain" not in done.stdout


def _move(root: Path) -> None:
    elsewhere = root.parent / "somewhere else, ü"
    shutil.copytree(root, elsewhere, symlinks=True)
    shutil.rmtree(root)
    elsewhere.rename(root)


def _rerun_above(root: Path) -> None:
    _again(root, "generate_data")


FALSE_ALARMS = (
    Tamper("fresh clone and pull", HOLDS, "", _clone),
    Tamper("times of all files changed", HOLDS, "", _touch),
    Tamper("dvc.lock in another order", HOLDS, "", _reorder),
    Tamper("stages restored from the run cache", HOLDS, "", _restore),
    Tamper("another checkout path", HOLDS, "", _move),
    Tamper("a stage run again with the same result", HOLDS, "", _rerun_above),
    Tamper("another machine's device.json", HOLDS, "", lambda r: (r / "data/device.json").write_text('{"cpu": "b"}\n')),
    Tamper("cache emptied", HOLDS, "", lambda r: shutil.rmtree(r / ".dvc/cache")),
    Tamper("further commits", HOLDS, "", lambda r: ((r / "notes").write_text("x"), commit(r, "notes"))),
)  # fmt: skip


_EDGE = 110
"""Most characters of an edge in the matrix; the audit itself prints all of them."""


def matrix() -> str:
    """Run every tamper and every change that is none, and return the outcomes as a Markdown table."""
    lines = ["| Change | Verdict | First failing edge |", "| --- | --- | --- |"]
    with tempfile.TemporaryDirectory() as temporary:
        base = new_project(Path(temporary) / "base/project")
        for command in (["dvc", "repro"], ["dvc", "push", "--run-cache"]):
            run(command, base)
        commit(base, "results")
        for number, tamper in enumerate((*TAMPERS, *FALSE_ALARMS)):
            folder = Path(temporary) / f"copy-{number}"
            shutil.copytree(base.parent, folder, symlinks=True)
            tamper.do(folder / "project")
            verdict, blamed = outcome(audited(folder / "project", remote=tamper.remote))
            mark = "" if verdict is tamper.verdict else " (wanted " + tamper.verdict + ")"
            edge = textwrap.shorten(blamed.replace("|", "/"), _EDGE, placeholder=" ...")
            lines.append(f"| {tamper.name} | {verdict}{mark} | {edge} |")
            shutil.rmtree(folder)
    return "\n".join(lines)


if __name__ == "__main__":
    print(matrix())
