"""
Training images/s of Table 1's nets in each precision and memory format: does `auto` choose the fastest?

Run:    python benchmarks/execution.py [--batch 32] [--rounds 5] [--json benchmarks/results/execution.json]
Takes:  presets/paper.yaml; scenes of 96x96 from optdigits, composed at the start
Expect: about 6 minutes on 2 CPU cores; what `auto` picks (dcnas_training.execution.choose_execution) reaches 0.9 of the fastest way
        on every net, also where the precision is fixed to fp32. The four ways take turns; a ratio is taken within each round
"""

import argparse
import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from support.contest import Contender, Race, Spread, Turns, race
from support.report import Bar, Report
from support.work import execution_for, generate_scenes, our_loop, paper_params

from dcnas_data.loader import ResidentScenes
from dcnas_data.scenes import read_scenes
from dcnas_schema.params import Params
from dcnas_training.execution import choose_device, make_deterministic

_MODELS = tuple(f"dcnet_{size}_{join}" for size, join in product(("reduced", "baseline"), ("integrated", "sequential")))
_WAYS = tuple(product(("fp32", "bf16"), ("contiguous", "channels_last")))
_TOLERANCE = 0.9
"""The least that `auto` may reach of the fastest way: closer ones change places between runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What `auto` picks where a precision is asked for, against the fastest way that was open."""

    asked: str
    """`auto`, or `fp32`: what a machine picks that does not multiply bf16."""
    picked: str
    fastest: str
    picked_over_fastest: Spread

    def for_json(self) -> dict[str, object]:
        """Return the choice, rounded."""
        return {
            "picked": self.picked,
            "fastest": self.fastest,
            "picked_over_fastest": self.picked_over_fastest.rounded(),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What was measured of one net."""

    model: str
    race: Race
    choices: list[Choice]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", default=_MODELS, help="names of models in presets/paper.yaml")
    parser.add_argument("--batch", type=int, default=32, help="scenes per step")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of turns, for each net")
    parser.add_argument("--seconds", type=float, default=2.0, help="about the length of a turn, two steps at least")
    parser.add_argument("--patience", type=float, default=30.0, help="seconds to wait for a quiet machine, each round")
    parser.add_argument("--json", type=Path, help="file for the result")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        params, path = paper_params(Path(folder), mnist=None, scenes={"train": 4096, "validation": 1, "test": 1})
        generate_scenes(path, Path(folder) / "digits")
        scenes = read_scenes(Path(folder) / "digits" / "train.parquet")
    retrain = params.retrain.model_copy(update={"batch_size": arguments.batch})
    params = params.model_copy(update={"retrain": retrain})
    device = choose_device(params.device)
    make_deterministic(device)
    report = Report("execution", params, device)
    resident = ResidentScenes(scenes, device)
    turns = Turns(rounds=arguments.rounds, seconds=arguments.seconds, patience_s=arguments.patience)
    findings = [_find(params, model, resident, device, turns) for model in arguments.models]
    _report(report, findings, f"training images/s, batch {arguments.batch}", arguments.json)


def _find(params: Params, model: str, scenes: ResidentScenes, device: torch.device, turns: Turns) -> Finding:
    print(f"{model}:")
    contenders = []
    for precision, memory_format in _WAYS:
        execution = execution_for(params, model, device, precision, memory_format)
        run = our_loop(params, model, scenes, execution)
        contenders.append(Contender(name=f"{precision} {memory_format}", run=run, images=params.retrain.batch_size))
    found = race(contenders, device, turns=turns)
    choices = [_choice(params, model, device, found, asked) for asked in ("auto", "fp32")]
    return Finding(model=model, race=found, choices=choices)


def _choice(params: Params, model: str, device: torch.device, found: Race, asked: str) -> Choice:
    execution = execution_for(params, model, device, asked, "auto")
    picked = f"{execution.precision} {execution.memory_format}"
    open_ways = [way for way in found.names if asked in ("auto", way.split()[0])]
    fastest = max(open_ways, key=lambda way: found.rate(way).median)
    return Choice(asked=asked, picked=picked, fastest=fastest, picked_over_fastest=found.ratio(picked, fastest))


def _report(report: Report, findings: list[Finding], what: str, json: Path | None) -> None:
    ways = findings[0].race.names
    rows = [(finding.model, *(finding.race.rate(way) for way in ways)) for finding in findings]
    bars = [
        Bar(
            what=f"{finding.model}, precision {choice.asked}: {choice.picked} is picked, {choice.fastest} is fastest; ratio",
            value=choice.picked_over_fastest.median,
            sense="at least",
            limit=_TOLERANCE,
            unit=" x",
        )
        for finding in findings
        for choice in finding.choices
    ]
    results = {
        finding.model: {
            "images_per_s": {way: finding.race.rate(way).rounded() for way in ways},
            "rounds": finding.race.rounds_for_json(),
            "choices": {choice.asked: choice.for_json() for choice in finding.choices},
        }
        for finding in findings
    }
    report.finish((what, *ways), rows, bars, results, json)


if __name__ == "__main__":
    main()
