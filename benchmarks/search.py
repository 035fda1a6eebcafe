"""
Search steps/s of our supernet against a plain implementation of the published algorithm, and the peak memory of both.

Run:    python benchmarks/search.py [--batch 32] [--size 64] [--ops 8] [--rounds 6] [--json benchmarks/results/search.json]
Takes:  nothing: random images that wait in memory, the same weights for both, latencies by a formula
Expect: about 4 minutes on 2 CPU cores; at batch 32 and 64x64 at least 1.4 x (architecture step) and 1.3 x (weight step), at batch 16 and
        96x96 1.5 x and 1.8 x; peak memory at most 0.9. Each has a process of its own, ours made ready as search_supernet's. Contenders take
        turns; a ratio is taken within each round, and its median counts
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # of both, as of stages that train; read when torch is imported

import argparse
import json
import random
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from support.apart import Steps, apart
from support.contest import Contender, Race, Turns, race
from support.plain_search import PlainSearch, table_key
from support.report import Bar, Report
from torch import Tensor

from dcnas_nets.supernet import Supernet, build_supernet
from dcnas_schema.params import DeviceParams, Section
from dcnas_schema.search_params import SearchSupernetParams
from dcnas_schema.space import OP_SETS, PLACES
from dcnas_search_supernet.job import choose_search_execution
from dcnas_search_supernet.steps import ArchitectureSteps, Images, WeightSteps
from dcnas_training.architecture import Architecture
from dcnas_training.elasticity import starting_widths
from dcnas_training.execution import Execution, choose_device, prepare_training
from dcnas_training.search_sampling import PathSampler, gumbel_noise

CLASSES = 100
HEAT = 2.0
TARGET_MS = 20.0
BARS = {(32, 64): (1.4, 1.3), (16, 96): (1.5, 1.8)}
"""Least ratio of the architecture step and of the weight step, by batch and size."""
MEMORY_STEPS = 2
TOLERANCE = 1e-3


class Setting(Section):
    """What is timed."""

    device: DeviceParams
    batch: int
    size: int
    ops: int
    search_supernet: SearchSupernetParams = SearchSupernetParams()


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """A supernet, its batch and its latencies."""

    setting: Setting
    execution: Execution
    net: Supernet
    table: list[list[float]]
    image: Tensor
    labels: Tensor


def make_bench(setting: Setting, device: torch.device) -> Bench:
    execution, form = choose_search_execution(device, setting.search_supernet)
    ops = OP_SETS[setting.ops]
    net = build_supernet(ops, starting_widths(ops, width_multiple=8), classes=CLASSES, seed=0, form=form)
    generator = torch.Generator().manual_seed(0)
    return Bench(
        setting=setting,
        execution=execution,
        net=net.to(device),
        table=[[0.001 * width for width in row] for row in net.widths()],
        image=torch.randn((setting.batch, 3, setting.size, setting.size), generator=generator).to(device),
        labels=torch.randint(CLASSES, (setting.batch,), generator=generator).to(device),
    )


def ours(bench: Bench) -> dict[str, Steps]:
    """Return our two steps, made ready for one epoch."""
    params, execution = bench.setting.search_supernet, bench.execution
    net = bench.net
    net.put_on(execution.device, execution.torch_format)
    architecture = Architecture(len(PLACES), len(net.ops), depths=None, device=execution.device)
    image = bench.image.contiguous(memory_format=execution.torch_format)
    images = Images(network_input=image, clean=bench.image, labels=bench.labels)
    sampler, noises = PathSampler(torch.Generator().manual_seed(1)), torch.Generator().manual_seed(2)
    weights = WeightSteps(net, execution, params, rate=params.learning_rate)
    steps = ArchitectureSteps(
        net,
        architecture,
        execution,
        params,
        block_ms=torch.tensor(bench.table, device=execution.device),
        rest_ms=0.0,
        target_ms=TARGET_MS,
    )

    def weight(count: int) -> None:
        losses = []
        for _ in range(count):
            first = sampler.first(architecture.log_alphas.detach().cpu())
            losses.append(weights.step(images, [first, sampler.second(first, len(net.ops))], None))
        assert torch.stack(losses).isfinite().all(), "a benchmark must train"

    def architecture_steps(count: int) -> None:
        noise = [gumbel_noise((len(PLACES), len(net.ops)), noises).to(execution.device) for _ in range(count)]
        scores = [steps.step(images, one, HEAT) for one in noise]
        assert torch.stack(scores).isfinite().all(), "a benchmark must search"

    return {"weight": weight, "architecture": architecture_steps}


def plain(bench: Bench) -> tuple[PlainSearch, dict[str, Steps]]:
    """Return the plain implementation and its two steps, on copies of the same weights."""
    random.seed(0)
    torch.manual_seed(0)
    widths = bench.net.widths()
    table = {
        table_key(place, op, widths[place][op]): ms
        for place, row in enumerate(bench.table)
        for op, ms in enumerate(row)
    }
    search = PlainSearch(bench.net, table, rate=bench.setting.search_supernet.learning_rate, target_ms=TARGET_MS)

    def weight(count: int) -> None:
        for _ in range(count):
            search.weight_step(bench.image, bench.labels)

    def architecture(count: int) -> None:
        for _ in range(count):
            search.architecture_step(bench.image, bench.labels, HEAT)

    return search, {"weight": weight, "architecture": architecture}


def our_steps(setting: Setting) -> dict[str, Steps]:
    """Make our steps in a process made ready as search_supernet's."""
    device = choose_device(setting.device)
    prepare_training(device)
    return {f"ours {name}": step for name, step in ours(make_bench(setting, device)).items()}


def plain_steps(setting: Setting) -> dict[str, Steps]:
    """Make the plain implementation's steps, in a process as it starts."""
    _, steps = plain(make_bench(setting, choose_device(setting.device)))
    return {f"plain {name}": step for name, step in steps.items()}


def require_same_work(bench: Bench, search: PlainSearch) -> None:
    """Both must say the same of the same batch, or the contest would compare two things."""
    with torch.no_grad():
        sharp = torch.full((len(PLACES), len(bench.net.ops)), 1 / len(bench.net.ops))
        mine = bench.net.mixed(bench.image.contiguous(memory_format=bench.execution.torch_format), sharp).logits
        theirs, _ = search.mixed(bench.image, 1e9)  # so hot that Gumbel noise makes no difference: all weights equal
    assert mine is not None
    worst = float((mine.float() - theirs).abs().max())
    assert worst < TOLERANCE, f"logits differ by {worst}"


def peak_mb(who: str, setting: Setting) -> float:
    """Return the peak resident set of a process of its own that takes a few steps of both kinds."""
    command = [sys.executable, __file__, "--only", who, "--setting", setting.model_dump_json()]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout.splitlines()[-1])["peak_mb"])


def take_steps(who: str, setting: Setting) -> None:
    """Be that process."""
    make = {"ours": our_steps, "plain": plain_steps}.get(who)
    if make is None:
        make_bench(setting, choose_device(setting.device))
    steps = {} if make is None else make(setting)
    for step in steps.values():
        step(MEMORY_STEPS)
    unit = 1e6 if sys.platform == "darwin" else 1e3  # macOS gives bytes, Linux kilobytes
    print(json.dumps({"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batch", type=int, default=32, help="images a step")
    parser.add_argument("--size", type=int, default=64, help="height and width of an image in pixels")
    parser.add_argument("--ops", type=int, default=8, choices=sorted(OP_SETS), help="candidates at every place")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--rounds", type=int, default=6, help="rounds of turns")
    parser.add_argument("--seconds", type=float, default=3.0, help="about the length of a turn")
    parser.add_argument("--patience", type=float, default=30.0, help="seconds to wait for a quiet machine, each round")
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--setting", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        take_steps(arguments.only, Setting.model_validate_json(arguments.setting))
        return
    device_params = DeviceParams(kind="auto", threads=arguments.threads)
    setting = Setting(device=device_params, batch=arguments.batch, size=arguments.size, ops=arguments.ops)
    device = choose_device(setting.device)
    report = Report("search", setting, device)
    peaks = {who: peak_mb(who, setting) for who in ("nothing", "plain", "ours")}
    bench = make_bench(setting, device)
    require_same_work(bench, plain(bench)[0])
    turns = Turns(rounds=arguments.rounds, seconds=arguments.seconds, patience_s=arguments.patience)
    with apart((plain_steps, (setting,)), (our_steps, (setting,))) as runs:
        contenders = [Contender(name=name, run=run, images=setting.batch) for name, run in runs.items()]
        found = race(contenders, device, turns=turns)
    _report(report, found, peaks, bench, arguments.json)


def _report(report: Report, found: Race, peaks: dict[str, float], bench: Bench, file: Path | None) -> None:
    setting = bench.setting
    what = f"{setting.ops} ops, batch {setting.batch}, {setting.size}x{setting.size}"
    ratios = {name: found.ratio(f"ours {name}", f"plain {name}") for name in ("architecture", "weight")}
    rows = [(f"{name} step [images/s]", found.rate(name)) for name in found.names]
    rows += [(f"{name} step, ours / plain", ratio) for name, ratio in ratios.items()]
    limits = BARS.get((setting.batch, setting.size), (1.0, 1.0))
    bars = [
        Bar(what=f"{name} step", value=ratio.median, sense="at least", limit=limit, unit=" x")
        for (name, ratio), limit in zip(ratios.items(), limits, strict=True)
    ]
    memory = peaks["ours"] / peaks["plain"]
    above = (peaks["ours"] - peaks["nothing"]) / (peaks["plain"] - peaks["nothing"])
    rows += [(f"peak memory of a process, {who} [MB]", f"{peak:.0f}") for who, peak in peaks.items()]
    rows.append(("peak memory above that of a process that takes no step, ours / plain", f"{above:.2f}"))
    bars.append(Bar(what="peak memory", value=memory, sense="at most", limit=0.9, unit=" x"))
    how = f"{bench.execution.precision} {bench.execution.memory_format} {bench.net.at(0).form}"
    results = {
        "what": what,
        "ours": how,
        "images_per_s": {name: found.rate(name).rounded() for name in found.names},
        "ratios": {name: ratio.rounded() for name, ratio in ratios.items()},
        "peak_mb": {who: round(peak, 1) for who, peak in peaks.items()},
        "rounds": found.rounds_for_json(),
    }
    report.finish((f"{what} (ours: {how})", "median (least to greatest)"), rows, bars, results, file)


if __name__ == "__main__":
    main()
