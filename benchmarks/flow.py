"""
Four independent pipeline stages of equal length: one after the other by `dvc repro`, and two at once by the engine of `dcnas flow run`.

Run:    python benchmarks/flow.py [--seconds 10] [--rounds 3] [--json benchmarks/results/flow.json]
Takes:  nothing; makes small DVC projects in a temporary folder, whose stages count for that long on one core
Expect: some three minutes; with two cores that nobody else uses at most 0.62 of the serial wall time, start of both processes included
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from support.contest import Spread
from support.report import Bar, Report
from support.work import paper_params

_STAGES = 4
_WORK = """
import sys, time
from pathlib import Path
end = time.process_time() + float(sys.argv[2])
while time.process_time() < end:
    sum(range(10_000))
Path(sys.argv[1]).write_text("done")
"""
_FLOW = """
import sys
from pathlib import Path
from dcnas_flows.reproduce import reproduce
sys.exit(reproduce(Path.cwd(), [], use_prefect=False, jobs=2))
"""
_DOORS = {"dvc repro": ["-m", "dvc", "repro"], "flow, two at once": ["-c", _FLOW]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="processor time of a stage")
    parser.add_argument("--rounds", type=int, default=3, help="turns of both")
    parser.add_argument("--json", type=Path, help="file for the result")
    arguments = parser.parse_args()
    walls: dict[str, list[float]] = {name: [] for name in _DOORS}
    with tempfile.TemporaryDirectory() as folder:
        report = Report("flow", paper_params(Path(folder), mnist=None)[0], torch.device("cpu"))
        for number in range(arguments.rounds):
            for name, door in _DOORS.items():
                root = _project(Path(folder) / f"{number}-{len(walls[name])}-{name.split()[0]}", arguments.seconds)
                began = time.perf_counter()
                done = subprocess.run(
                    [sys.executable, *door], cwd=root, env=_environment(), capture_output=True, check=True
                )
                walls[name].append(time.perf_counter() - began)
                made = len(list(root.glob("*.txt")))
                assert made == _STAGES, done.stdout.decode()
    serial, parallel = walls.values()
    ratio = Spread.of([two / one for one, two in zip(serial, parallel, strict=True)])
    rows = [(f"{name} [s]", Spread.of(seconds)) for name, seconds in walls.items()]
    bar = Bar(what="two at once over one after the other", value=ratio.median, sense="at most", limit=0.62)
    results = {name: Spread.of(seconds).rounded() for name, seconds in walls.items()} | {"ratio": ratio.rounded()}
    report.finish(("", "median (least to greatest)"), [*rows, ("ratio", ratio)], [bar], results, arguments.json)


def _project(root: Path, seconds: float) -> Path:
    root.mkdir(parents=True)
    stages = "".join(
        f"  stage{i}: {{cmd: exec python work.py {i}.txt {seconds}, deps: [work.py], outs: [{i}.txt]}}\n"
        for i in range(_STAGES)
    )
    (root / "work.py").write_text(_WORK)
    (root / "dvc.yaml").write_text(f"stages:\n{stages}")
    for command in (["git", "init", "--quiet"], [sys.executable, "-m", "dvc", "init", "--quiet"]):
        subprocess.run(command, cwd=root, env=_environment(), check=True)
    return root


def _environment() -> dict[str, str]:
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": tools, "DVC_NO_ANALYTICS": "1"}


if __name__ == "__main__":
    main()
