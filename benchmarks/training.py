"""
Training images/s of our loop against (a) the textbook loop and (b) the bare step on tensors that wait in memory.

Run:    python benchmarks/training.py [--model dcnet_reduced_integrated] [--batch 32] [--rounds 8] [--json benchmarks/results/training.json]
Takes:  presets/paper.yaml; 25,000 scenes of 96x96 from optdigits, composed at the start
Expect: about 2 minutes; on 2 CPU cores at least 1.5 x (a) and 0.9 x (b). The textbook loop has a process of its own, as it starts; ours and
        the bare step share one that is made ready as retrain's. Contenders take turns of about 2 s; a ratio is taken within each round, and
        its median over the rounds counts
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from support.apart import Steps, apart
from support.contest import Contender, Race, Turns, race
from support.report import Bar, Report
from support.work import execution_for, generate_scenes, our_loop, paper_params
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dcnas_data.loader import ResidentScenes
from dcnas_data.scenes import Scenes, read_scenes
from dcnas_nets.models import build_model
from dcnas_nets.quick import quicken
from dcnas_schema.params import Params
from dcnas_training.execution import Execution, choose_device, prepare_training
from dcnas_training.losses import scene_loss
from dcnas_training.optimizers import EagerAdam

_WORKERS = 2

Item = tuple[Tensor, Tensor, Tensor, Tensor]


class TextbookScenes(Dataset[Item]):
    """One scene at a time: pixels to float, in three channels, with its own noise level and noise, on the CPU."""

    def __init__(self, scenes: Scenes, sigmas: tuple[float, ...]) -> None:
        self._scenes, self._sigmas = scenes, torch.tensor(sigmas)

    def __len__(self) -> int:
        return len(self._scenes.images)

    def __getitem__(self, number: int) -> Item:
        """Return noisy scene, clean scene, labels and corners of one scene."""
        scenes = self._scenes
        clean = torch.from_numpy(scenes.images[number]).float().div(255).expand(3, -1, -1)
        sigma = self._sigmas[torch.randint(len(self._sigmas), ())]
        noisy = clean + sigma * torch.randn(clean.shape)
        labels = torch.from_numpy(scenes.labels[number]).long()
        return noisy, clean, labels, torch.from_numpy(scenes.corners[number]).long()


class _Turn(Sampler[int]):
    """As many random scenes as the next turn takes, so that the workers do nothing outside it."""

    def __init__(self, scenes: int) -> None:
        self._scenes, self.count = scenes, 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randint(self._scenes, (self.count,)).tolist())


def textbook_loop(params: Params, name: str, path: Path, device: torch.device) -> dict[str, Steps]:
    """Make the loop that most code has, in a process as it starts: DataLoader with workers, NCHW, fp32, torch's Adam."""
    choose_device(params.device)
    scenes = read_scenes(path)
    model = build_model(params.models[name], seed=0).to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=params.retrain.learning_rate)
    turn = _Turn(len(scenes.images))
    loader = DataLoader(
        TextbookScenes(scenes, params.noise.sigmas),
        batch_size=params.retrain.batch_size,
        sampler=turn,
        num_workers=_WORKERS,
        persistent_workers=True,
        pin_memory=device.type == "cuda",
    )

    def steps(count: int) -> None:
        turn.count = count * params.retrain.batch_size
        total = 0.0
        for items in loader:
            noisy, clean, labels, corners = (tensor.to(device, non_blocking=True) for tensor in items)
            optimizer.zero_grad()
            output = model(noisy, corners)
            loss = scene_loss(output.restored, output.logits, clean, labels, params.retrain.loss)
            loss.backward()  # type: ignore[no-untyped-call] # torch ships backward without annotations
            optimizer.step()
            total += loss.item()

    return {"textbook": steps}


def our_loops(params: Params, name: str, path: Path, executions: dict[str, Execution]) -> dict[str, Steps]:
    """Make our loop and the bare step, each in every way of `executions`, in a process made ready as retrain's."""
    device = choose_device(params.device)
    prepare_training(device)
    scenes = read_scenes(path)
    resident, size = ResidentScenes(scenes, device), scenes.images.shape[-1]
    loops = {}
    for label, execution in executions.items():
        loops[f"ours {label}"] = our_loop(params, name, resident, execution)
        loops[f"bare {label}"] = bare_step(params, name, size, execution)
    return loops


def bare_step(params: Params, name: str, size: int, execution: Execution) -> Steps:
    """Return the step alone: forward, loss, backward, optimiser on the same random tensors every time."""
    device, batch = execution.device, params.retrain.batch_size
    model = build_model(params.models[name], seed=0)
    quicken(model)
    model = model.to(device=device, memory_format=execution.torch_format).train()  # type: ignore[call-overload] # torch's stub lacks this pair
    optimizer = EagerAdam(model.parameters(), lr=params.retrain.learning_rate, fused=True)
    noisy = torch.rand((batch, 3, size, size), device=device).contiguous(memory_format=execution.torch_format)
    clean = torch.rand((batch, 1, size, size), device=device)
    labels = torch.randint(10, (batch, 2), device=device)
    corners = torch.randint(size - 28, (batch, 2, 2), device=device)

    def steps(count: int) -> None:
        for _ in range(count):
            with execution.autocast():
                output = model(noisy, corners)
            loss = scene_loss(output.restored, output.logits, clean, labels, params.retrain.loss)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call] # torch ships backward without annotations
            optimizer.step()

    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="dcnet_reduced_integrated", help="name of the model in presets/paper.yaml")
    parser.add_argument("--batch", type=int, default=32, help="scenes per step")
    parser.add_argument("--rounds", type=int, default=8, help="rounds of turns")
    parser.add_argument("--seconds", type=float, default=2.0, help="about the length of a turn")
    parser.add_argument("--patience", type=float, default=30.0, help="seconds to wait for a quiet machine, each round")
    parser.add_argument("--json", type=Path, help="file for the result")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        params, path = paper_params(Path(folder), mnist=None, scenes={"validation": 1, "test": 1})
        generate_scenes(path, Path(folder) / "digits")
        retrain = params.retrain.model_copy(update={"batch_size": arguments.batch})
        params = params.model_copy(update={"retrain": retrain})
        device = choose_device(params.device)
        report = Report("training", params, device)
        executions = {
            label: execution_for(params, arguments.model, device, precision, "auto")
            for label, precision in (("auto", "auto"), ("fp32", "fp32"))
        }
        turns = Turns(rounds=arguments.rounds, seconds=arguments.seconds, patience_s=arguments.patience)
        of_all = (params, arguments.model, Path(folder) / "digits" / "train.parquet")
        with apart((textbook_loop, (*of_all, device)), (our_loops, (*of_all, executions))) as runs:
            contenders = [Contender(name=name, run=run, images=arguments.batch) for name, run in runs.items()]
            found = race(contenders, device, turns=turns)
    what = f"{arguments.model}, batch {arguments.batch}"
    _report(report, found, executions, what, arguments.json)


def _report(report: Report, found: Race, executions: dict[str, Execution], what: str, json: Path | None) -> None:
    def how(name: str) -> str:
        if name == "textbook":
            return f"fp32 contiguous, {_WORKERS} workers"
        execution = executions[name.split()[1]]
        return f"{execution.precision} {execution.memory_format}"

    pairs = [(f"ours {ours}", other) for ours in executions for other in ("textbook", f"bare {ours}")]
    ratios = {f"{ours} / {other}": found.ratio(ours, other) for ours, other in pairs}
    rows = [(f"{name} ({how(name)}) [images/s]", found.rate(name)) for name in found.names]
    rows += list(ratios.items())
    bars = [
        Bar(what=name, value=ratios[name].median, sense="at least", limit=limit, unit=" x")
        for name, limit in (("ours auto / textbook", 1.5), ("ours auto / bare auto", 0.9))
    ]
    results = {
        "what": what,
        "images_per_s": {name: {"how": how(name), **found.rate(name).rounded()} for name in found.names},
        "ratios": {name: spread.rounded() for name, spread in ratios.items()},
        "rounds": found.rounds_for_json(),
    }
    report.finish((what, "median (least to greatest)"), rows, bars, results, json)


if __name__ == "__main__":
    main()
