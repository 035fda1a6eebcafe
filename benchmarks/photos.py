"""
Training images/s on photographs against the same net on random tensors that wait in memory: does decoding and augmenting starve training?

Run:    python benchmarks/photos.py [--kind c_nas] [--batch 32] [--size 64] [--rounds 8] [--json benchmarks/results/photos.json]
Takes:  the embedded demo photographs, 3,072 crops made at the start; a middle-sized net of the search space
Expect: about 2 minutes; on 2 CPU cores at 64x64 the pictures, resident, give at least 0.9 x the bare step; crop, flip, jitter, noise and
        normalisation are in. Contenders take turns of about 2 s; a ratio is taken within each round, and its median over the rounds counts
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from support.contest import Contender, Race, Turns, race
from support.report import Bar, Report
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dcnas_data.noise import add_uniform_noise
from dcnas_data.photo_loader import PhotoBatch, PhotoStore
from dcnas_data.photo_views import RandomView
from dcnas_generate_data.write_photos import write_photo_splits
from dcnas_nets.quick import quicken
from dcnas_nets.space import build_space_net
from dcnas_schema.genotype import uniform_genotype
from dcnas_schema.params import DeviceParams, SplitCounts
from dcnas_schema.photo_params import JitterParams, PhotosParams, PhotoViewParams
from dcnas_schema.space import NetKind
from dcnas_training.execution import Execution, choose_device, choose_execution, prepare_training

_PER_CLASS = 192
_EXPAND = 4.0


def photos_params(size: int) -> PhotosParams:
    """Return the demo set, its crops an eighth larger than the net's input."""
    return PhotosParams(
        source="demo",
        root=None,
        files=(),
        columns=None,
        train_list=None,
        validation_list=None,
        size=size * 9 // 8,
        encoding="png",
        validation_share=0.2,
        test_share=0.2,
        most=SplitCounts(train=_PER_CLASS, validation=1, test=1),
        most_classes=None,
        seed=0,
    )


def view_params(size: int) -> PhotoViewParams:
    """Return TF-NAS's augmentation."""
    return PhotoViewParams(
        size=size,
        scale=(0.08, 1.0),
        ratio=(3 / 4, 4 / 3),
        flip=0.5,
        jitter=JitterParams(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2),
        centre_share=0.875,
        memory_mb=2000,
    )


class Step:
    """One step of training a net of its own: forward, loss, backward, SGD."""

    def __init__(self, kind: NetKind, classes: int, execution: Execution) -> None:
        net = build_space_net(kind, uniform_genotype("k3_e3", _EXPAND), classes=classes, seed=0)
        quicken(net)
        self._net: nn.Module = net.to(device=execution.device, memory_format=execution.torch_format).train()  # type: ignore[call-overload] # torch's stub lacks this pair
        self._optimizer = torch.optim.SGD(
            self._net.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-5, foreach=True
        )
        self._execution = execution

    def __call__(self, image: Tensor, clean: Tensor, labels: Tensor) -> Tensor:
        """Train on one batch and return its loss, still on the device."""
        with self._execution.autocast():
            output = self._net(image)
        loss = torch.zeros((), device=image.device)
        if output.logits is not None:
            loss = loss + cross_entropy(output.logits.float(), labels)
        if output.restored is not None:
            loss = loss + (output.restored.float() - clean).square().mean()
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call] # torch ships backward without annotations
        nn.utils.clip_grad_norm_(self._net.parameters(), 5.0, foreach=True)
        self._optimizer.step()
        return loss.detach()


def photo_loop(
    step: Step, store: PhotoStore, view: PhotoViewParams, batch: int, execution: Execution
) -> Callable[[int], None]:
    """Return the steps on photographs: shuffled, augmented, with noise of sigma from U[0, 1]."""
    device = execution.device
    order, draws = torch.Generator().manual_seed(0), torch.Generator(device).manual_seed(0)
    batches = _endless(store, batch, RandomView(view, draws=draws, order=order), order)

    def steps(count: int) -> None:
        losses = []
        for _ in range(count):
            one = next(batches)
            noisy, _ = add_uniform_noise(one.clean, 1.0, generator=draws, clip=False)
            losses.append(step(noisy.contiguous(memory_format=execution.torch_format), one.clean, one.labels))
        assert torch.stack(losses).isfinite().all(), "a benchmark must train"

    return steps


def bare_loop(step: Step, batch: int, size: int, classes: int, execution: Execution) -> Callable[[int], None]:
    """Return the steps alone, on the same random tensors every time."""
    image = torch.randn((batch, 3, size, size), device=execution.device).contiguous(
        memory_format=execution.torch_format
    )
    clean = torch.rand((batch, 3, size, size), device=execution.device)
    labels = torch.randint(classes, (batch,), device=execution.device)

    def steps(count: int) -> None:
        for _ in range(count):
            step(image, clean, labels)

    return steps


def input_loop(store: PhotoStore, view: PhotoViewParams, batch: int, execution: Execution) -> Callable[[int], None]:
    """Return the making of a net's input alone, without any net."""

    def nothing(image: Tensor, _clean: Tensor, _labels: Tensor) -> Tensor:
        return image[0, 0, 0, 0]

    return photo_loop(nothing, store, view, batch, execution)  # type: ignore[arg-type] # a stand-in for the step, called the same way


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--kind", choices=("c_nas", "d_nas", "dc_nas"), default="c_nas", help="classifier, denoiser, both"
    )
    parser.add_argument("--batch", type=int, default=32, help="photographs per step")
    parser.add_argument("--size", type=int, default=64, help="height and width of the net's input in pixels")
    parser.add_argument("--rounds", type=int, default=8, help="rounds of turns")
    parser.add_argument("--seconds", type=float, default=2.0, help="about the length of a turn")
    parser.add_argument("--patience", type=float, default=30.0, help="seconds to wait for a quiet machine, each round")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--json", type=Path, help="file for the result")
    arguments = parser.parse_args()
    params, view = photos_params(arguments.size), view_params(arguments.size)
    device = choose_device(DeviceParams(kind="auto", threads=arguments.threads))
    prepare_training(device)
    report = Report("photos", params, device)
    with tempfile.TemporaryDirectory() as folder:
        write_photo_splits(params, Path(folder))
        paths, threads = [Path(folder) / "train.parquet"], os.cpu_count() or 1
        resident, streamed = (
            PhotoStore.open(paths, device=device, memory_mb=memory, threads=threads) for memory in (view.memory_mb, 0)
        )
    classes = len(resident.classes)
    net = build_space_net(arguments.kind, uniform_genotype("k3_e3", _EXPAND), classes=classes, seed=0)
    execution = choose_execution(net, device, precision="auto")
    batch, size = arguments.batch, arguments.size
    runs = {
        "resident": photo_loop(Step(arguments.kind, classes, execution), resident, view, batch, execution),
        "streamed": photo_loop(Step(arguments.kind, classes, execution), streamed, view, batch, execution),
        "bare": bare_loop(Step(arguments.kind, classes, execution), batch, size, classes, execution),
        "input alone": input_loop(resident, view, batch, execution),
    }
    contenders = [Contender(name=name, run=run, images=batch) for name, run in runs.items()]
    turns = Turns(rounds=arguments.rounds, seconds=arguments.seconds, patience_s=arguments.patience)
    found = race(contenders, device, turns=turns)
    what = f"{arguments.kind} k3_e3 x{_EXPAND:g}, {size}x{size}, batch {batch}, {execution.precision} {execution.memory_format}"
    _report(report, found, what, arguments.json)


def _endless(store: PhotoStore, batch: int, view: RandomView, order: torch.Generator) -> Iterator[PhotoBatch]:
    while True:
        yield from store.shuffled(batch, view, order)


def _report(report: Report, found: Race, what: str, json: Path | None) -> None:
    ratios = {f"{name} / bare": found.ratio(name, "bare") for name in ("resident", "streamed")}
    rows = [(f"{name} [images/s]", found.rate(name)) for name in found.names]
    rows += list(ratios.items())
    bar = Bar(what="resident / bare", value=ratios["resident / bare"].median, sense="at least", limit=0.9, unit=" x")
    results = {
        "what": what,
        "images_per_s": {name: found.rate(name).rounded() for name in found.names},
        "ratios": {name: spread.rounded() for name, spread in ratios.items()},
        "rounds": found.rounds_for_json(),
    }
    report.finish((what, "median (least to greatest)"), rows, [bar], results, json)


if __name__ == "__main__":
    main()
