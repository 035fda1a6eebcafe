"""The work that is timed: scenes from the real stage generate_data, steps of the real loop of retrain."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML

from dcnas_data.loader import ResidentScenes, SceneBatch
from dcnas_nets.models import build_model
from dcnas_retrain.loop import Run, start_state, train_step
from dcnas_schema.params import Params, load_params, read_yaml
from dcnas_training.checkpoints import CheckpointFolder
from dcnas_training.execution import Execution, choose_execution

_PAPER = Path(__file__).resolve().parents[2] / "presets" / "paper.yaml"


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What one child process took."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    """Greatest resident set."""


def paper_params(folder: Path, *, mnist: str | None, scenes: dict[str, int] | None = None) -> tuple[Params, Path]:
    """
    Write the preset `paper` into `folder` with another source of digits; return it, checked, and its path.

    Args:
        mnist: Folder of MNIST's files; `None` takes the embedded optdigits.

        scenes: Scenes of each split, where they are not the preset's.
    """
    content: dict[str, Any] = read_yaml(_PAPER)
    digits = content["generate_data"]["digits"]
    digits.update({"source": "mnist" if mnist else "optdigits", "root": mnist, "download": False})
    digits["scenes"].update(scenes or {})
    path = folder / "params.yaml"
    YAML(typ="safe", pure=True).dump(content, path)
    return load_params(path), path


def generate_scenes(params: Path, out: Path) -> Usage:
    """
    Run the pipeline stage generate_data as a process of its own.

    Raises:
        CalledProcessError: The stage failed; it has said why.
    """
    scratch = out.parent / "scratch"
    command = [sys.executable, "-m", "dcnas_generate_data"]
    command += ["--params", str(params), "--out", str(out), "--scratch", str(scratch)]
    began = time.perf_counter()
    child = subprocess.Popen(command)
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise subprocess.CalledProcessError(child.returncode, command)
    unit = 1e6 if sys.platform == "darwin" else 1e3  # macOS gives bytes, Linux kilobytes
    return Usage(wall_s=wall, cpu_s=usage.ru_utime + usage.ru_stime, peak_mb=usage.ru_maxrss / unit)


def our_loop(params: Params, name: str, scenes: ResidentScenes, execution: Execution) -> Callable[[int], None]:
    """Return the steps that retrain takes for the model `name`: real shuffles, real noise, `train_step`."""
    run = Run(
        model=build_model(params.models[name], seed=0),
        train=scenes,
        validation=scenes,
        execution=execution,
        epochs=1,
        noise=params.noise,
        params=params.retrain,
        seed=0,
        checkpoints=CheckpointFolder(Path("unused")),
        label=name,
    )
    state = start_state(run)
    run.model.train()
    sigmas = torch.tensor(run.noise.sigmas, device=execution.device)
    batches = _endless(scenes, params.retrain.batch_size, state.shuffle)

    def steps(count: int) -> None:
        losses = [train_step(run, state, next(batches), sigmas) for _ in range(count)]
        assert torch.stack(losses).isfinite().all(), "a benchmark must train"

    return steps


def execution_for(params: Params, name: str, device: torch.device, precision: Any, memory_format: Any) -> Execution:
    """Return how the model `name` runs, `auto` resolved as retrain does."""
    model = build_model(params.models[name], seed=0)
    return choose_execution(model, device, precision=precision, memory_format=memory_format)


def _endless(scenes: ResidentScenes, batch_size: int, generator: torch.Generator) -> Iterator[SceneBatch]:
    while True:
        yield from scenes.shuffled(batch_size, generator)
