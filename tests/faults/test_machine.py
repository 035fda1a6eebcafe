"""The machine around a run: its language, time zone, paths, memory, disk and threads change no bit, or end in one clear message."""

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from dcnas_data.photo_files import RefusedError, quiet_pillow, store_photo
from dcnas_harness.errors import UnfitEnvironmentError
from dcnas_harness.files import sha256_of
from dcnas_lineage.collect import collect_provenance
from dcnas_nets.mixed import Form
from dcnas_nets.models import build_model
from dcnas_nets.space import build_space_net
from dcnas_nets.supernet import Supernet
from dcnas_retrain import loop
from dcnas_retrain.job import Job, train_job
from dcnas_schema.genotype import STAGE_DEPTHS, uniform_genotype
from dcnas_schema.params import Params
from dcnas_schema.photo_training import PhotoLossParams
from dcnas_schema.provenance import DeviceCard
from dcnas_schema.space import OP_SETS, OPS, PLACES, OpName, width_bounds
from dcnas_training.photo_losses import photo_loss

MODEL = "dcnet_reduced_integrated"
LOSS = PhotoLossParams(
    cross_entropy=0.1, denoising=0.9, charbonnier=0.8, ssim=0.2, charbonnier_epsilon=1e-3, label_smoothing=0.1
)
LONG = "ä" * 127
"""254 bytes in UTF-8: one less than a file name may have."""


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    """Every test leaves torch's threads as they were."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trained(tiny_scenes: Path, tiny_params: Callable[..., Params], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of a training in this process; tests must leave them as they are."""
    root = tmp_path_factory.mktemp("trained")
    train_job(
        Job(model=MODEL, seed=0, params=tiny_params(), scenes=tiny_scenes, scratch=root / "scratch"), root / "out"
    )
    return root / "out"


def test_another_language_zone_umask_home_and_path_change_no_bit(
    tiny_scenes: Path, trained: Path, write_params: Callable[..., Path], tmp_path: Path
) -> None:
    """
    Data and weights made by processes in a far-away place are the bytes that this process makes.

    There: plain C as language, a time zone of its own, a umask of 077, no home, a folder with spaces, letters beyond ASCII and a name as
    long as a name may be, reached through a symbolic link, some paths relative and some not.
    """
    real = tmp_path / "proj ü (1)" / LONG
    real.mkdir(parents=True)
    (tmp_path / "link").symlink_to(real)
    write_params(real / "params.yaml")
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "LANG", "DVC_STAGE")}
    # Python 3.11 reads the paths of an environment's packages in the locale's encoding, UTF-8 mode or not
    environment |= {"LC_ALL": "C" if sys.prefix.isascii() else "C.UTF-8", "TZ": "Pacific/Kiritimati"}

    def run(*words: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=tmp_path / "link",
            env=environment,
            umask=0o077,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()

    run("dcnas_generate_data", "--out", f"data/{LONG}")
    run("dcnas_retrain", "--model", MODEL, "--seed", "0", "--scenes", f"data/{LONG}", "--out", str(tmp_path / "link/o"))
    for split in ("train", "validation", "test"):
        name = f"{split}.parquet"
        assert sha256_of(real / "data" / LONG / name) == sha256_of(tiny_scenes / name)
    assert sha256_of(real / "o/weights.safetensors") == sha256_of(trained / "weights.safetensors")
    assert (real / "o/weights.safetensors").stat().st_mode & 0o077 == 0


def test_a_run_stopped_within_an_epoch_ends_the_same_with_one_thread_and_with_two(
    tiny_scenes: Path, tiny_params: Callable[..., Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before the first and in the middle of the second epoch, then run again: the weights of the undisturbed run."""
    original = loop.train_step
    for threads in (1, 2):
        params = tiny_params({"device.threads": threads, "retrain.epochs": 2})

        def run(name: str, stop_at: int | None = None, params: Params = params) -> Path:
            taken = iter(range(1, 10**6))

            def step(*arguments: Any) -> torch.Tensor:
                if next(taken) == stop_at:
                    raise KeyboardInterrupt
                return original(*arguments)

            monkeypatch.setattr(loop, "train_step", step)
            folder = tmp_path / str(params.device.threads) / name
            train_job(
                Job(model=MODEL, seed=0, params=params, scenes=tiny_scenes, scratch=folder / "scratch"), folder / "out"
            )
            return folder / "out"

        whole = sha256_of(run("whole") / "weights.safetensors")
        for stop_at in (1, 6):  # four steps an epoch
            with pytest.raises(KeyboardInterrupt):
                run("stopped", stop_at)
        assert sha256_of(run("stopped") / "weights.safetensors") == whole


def test_checkpoints_of_another_number_of_threads_are_not_taken_up(
    tiny_scenes: Path, tiny_params: Callable[..., Params], tmp_path: Path
) -> None:
    """Threads may change bits: with another number the run begins anew, in a folder of its own."""
    for threads in (1, 2):
        params = tiny_params({"device.threads": threads})
        train_job(Job(model=MODEL, seed=0, params=params, scenes=tiny_scenes, scratch=tmp_path), tmp_path / "out")
        assert len(list((tmp_path / f"retrain/{MODEL}-0").iterdir())) == threads


LITTLE_MEMORY = """
import resource, sys
import dcnas_retrain.job  # what is loaded stays; what is asked for beyond it is refused
from dcnas_harness.process import run_main
from dcnas_retrain.__main__ import main
now = int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmSize"))) * 1024
resource.setrlimit(resource.RLIMIT_AS, (now + int(sys.argv.pop(1)),) * 2)
run_main(main)
"""


def test_too_little_memory_is_said_and_keeps_the_checkpoints(
    tiny_scenes: Path,
    write_params: Callable[..., Path],
    python: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    """With an address space of 30 MB more than the program itself a training exits 3 with a remedy; scenes stay, no part is left."""
    params = write_params(tmp_path / "params.yaml", {f"models.{MODEL}.unet.base": 256})
    words = ["--model", MODEL, "--seed", 0, "--scenes", tiny_scenes, "--params", params]
    out = ["--out", tmp_path / "out", "--scratch", tmp_path / "scratch"]
    done = python("-c", LITTLE_MEMORY, 30 << 20, *words, *out, OMP_NUM_THREADS="1")
    assert done.returncode == 3, done.stderr
    assert "out of memory" in done.stderr
    assert "remedy: use a smaller batch size" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "out").iterdir()) == []
    assert list(tmp_path.rglob("*.tmp")) == []


def test_a_killed_git_is_not_taken_for_a_missing_checkout(
    card: DeviceCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Git is killed while provenance asks it, the stage fails (exit 3): it never writes that there is no commit."""
    git = tmp_path / "git"
    git.write_text("#!/bin/sh\nkill -9 $$\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(UnfitEnvironmentError, match="git rev-parse was killed by signal 9"):
        collect_provenance(stage="retrain", item="", params_sha256="0" * 64, seed=0, inputs=(), device=card)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_figure_that_does_not_fit_keeps_the_old_one(small_disk: Path, suffix: str) -> None:
    """On a full disk the error (exit 3) names the figure, the old one stays whole, and no part is left."""
    from matplotlib.figure import Figure

    from dcnas_tabulate.drawing import save_figure

    figure, path = Figure(figsize=(2, 2)), small_disk / f"figure.{suffix}"
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1])
    save_figure(figure, path)
    old = path.read_bytes()
    (small_disk / "filler").write_bytes(bytes((1 << 20) - (2 << 12) - len(old) // 4096 * 4096 - 4096))
    axes.plot(np.arange(4000), np.random.default_rng(0).random(4000))
    figure.set_size_inches(10, 10)
    with pytest.raises(UnfitEnvironmentError, match=rf"No space left on the disk while writing .*figure\.{suffix}"):
        save_figure(figure, path)
    assert path.read_bytes() == old
    assert sorted(file.name for file in small_disk.iterdir()) == [path.name, "filler"]


@pytest.mark.parametrize("megapixels", [90, 179])
def test_a_decompression_bomb_is_refused_without_decoding(megapixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real PNG of a few kB with more pixels than the limit is refused by its header: its pixels are never asked for."""
    side, encoded = int((megapixels * 1e6) ** 0.5) + 1, io.BytesIO()
    Image.new("1", (side, side)).save(encoded, "PNG")
    assert len(encoded.getvalue()) < 100_000
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
    with quiet_pillow(), pytest.raises(RefusedError) as refused:
        store_photo(encoded.getvalue(), size=32, encoding="png")
    assert refused.value.reason == "too large"


@pytest.fixture
def deterministic() -> Iterator[torch.device]:
    """The device, a GPU where there is one; an operation without a deterministic form raises on it."""
    torch.use_deterministic_algorithms(True, warn_only=False)
    yield torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("op", OPS)
def test_every_op_of_the_space_runs_deterministically(deterministic: torch.device, op: OpName) -> None:
    """Forward and backward of a joint net of this op alone, with the loss of Eq. 3, ask for no operation that depends on timing."""
    net = build_space_net("dc_nas", uniform_genotype(op, OPS[op].expand_ratio), classes=5, seed=0, dropout=0.2)
    net = net.to(deterministic).train()
    output = net(torch.rand((2, 3, 33, 47), device=deterministic))
    labels = torch.zeros(2, dtype=torch.int64, device=deterministic)
    clean = torch.rand((2, 3, 33, 47), device=deterministic)
    photo_loss(output.restored, output.logits, clean, labels, LOSS).backward()  # type: ignore[no-untyped-call] # torch ships backward without annotations
    assert all(value.grad is not None and value.grad.isfinite().all() for value in net.parameters())


@pytest.mark.parametrize("form", ["plain", "fused"])
def test_the_supernet_runs_deterministically(deterministic: torch.device, form: Form) -> None:
    """All candidates at once, in both forms, and two sampled paths, with the decoder, forward and backward."""
    ops = OP_SETS[4]
    widths = [[width_bounds(place.in_channels, OPS[op])[0] for op in ops] for place in PLACES]
    net = Supernet(ops, widths, classes=5, decoder=True, form=form).to(deterministic).train()
    image = torch.rand((2, 3, 32, 32), device=deterministic)
    alphas = torch.full((len(PLACES), len(ops)), 1 / len(ops), device=deterministic, requires_grad=True)
    depths = [torch.full((depth,), 1 / depth, device=deterministic, requires_grad=True) for depth in STAGE_DEPTHS]
    outputs = [net.mixed(image, alphas, depths), *net.paths(image, [[0] * len(PLACES), [3] * len(PLACES)], depths)]
    heads = [value for output in outputs for value in (output.logits, output.restored) if value is not None]
    assert len(heads) == 6
    torch.stack([value.square().mean() for value in heads]).sum().backward()
    assert alphas.grad is not None


@pytest.mark.parametrize(
    "model", ["dcnet_reduced_integrated", "dcnet_reduced_sequential", "unet_s", "classifier_conv_clean"]
)
def test_the_models_on_scenes_run_deterministically(
    deterministic: torch.device, tiny_params: Callable[..., Params], model: str
) -> None:
    """Padding, crops at the digits' corners, decoder and heads, forward and backward."""
    net = build_model(tiny_params().models[model], seed=0).to(deterministic).train()
    corners = torch.tensor([[[0, 0], [20, 27]]] * 2, device=deterministic)
    output = net(torch.rand((2, 3, 55, 57), device=deterministic), corners)
    total = sum(value.float().square().mean() for value in output if value is not None)
    assert isinstance(total, torch.Tensor)
    total.backward()  # type: ignore[no-untyped-call] # torch ships backward without annotations
