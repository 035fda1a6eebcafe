"""Score a model on test scenes, level by level, image by image."""

from typing import Any

import torch
from torch import Tensor

from dcnas_data.loader import ResidentScenes, SceneBatch
from dcnas_data.noise import evaluation_noise
from dcnas_harness.console import progress
from dcnas_harness.errors import NumericalError
from dcnas_nets.models import Output, SceneModel
from dcnas_schema.params import EvaluateParams, NoiseParams
from dcnas_training.execution import Execution
from dcnas_training.metrics import correct_digits, psnr_db, squared_error_per_image, ssim_per_image


def score_levels(
    model: SceneModel,
    scenes: ResidentScenes,
    execution: Execution,
    *,
    noise: NoiseParams,
    evaluate: EvaluateParams,
    label: str,
) -> list[dict[str, Any]]:
    """Return one row of `RECORD` for each noise level, over all scenes."""
    rows = []
    with progress(label, len(noise.sigmas)) as report:
        for level, sigma in enumerate(noise.sigmas):
            parts: dict[str, list[Tensor]] = {}
            start = 0
            for batch in scenes.in_order(evaluate.batch_size):
                noisy = _noisy(batch, start, level, noise, evaluate.noise_seed)
                for name, values in _score(run_model(model, noisy, batch, execution), noisy, batch).items():
                    parts.setdefault(name, []).append(values)
                start += len(noisy)
            rows.append(row_of(sigma, {name: torch.cat(values) for name, values in parts.items()}))
            report.update(level + 1, f"sigma {sigma:g}")
    return rows


def panel_rows(
    model: SceneModel, scenes: ResidentScenes, execution: Execution, *, noise: NoiseParams, evaluate: EvaluateParams
) -> list[dict[str, Any]]:
    """Return rows of `PANEL`: the first test scenes at the panel's levels, with the noise that they are scored with."""
    rows = []
    batch = scenes.batch(slice(0, evaluate.panel.scenes))
    for sigma in evaluate.panel.sigmas:
        noisy = _noisy(batch, 0, noise.sigmas.index(sigma), noise, evaluate.noise_seed)
        output = run_model(model, noisy, batch, execution)
        for scene in range(len(noisy)):
            rows.append(
                {
                    "scene": scene,
                    "sigma": sigma,
                    "height": noisy.shape[2],
                    "width": noisy.shape[3],
                    "clean": rgb_bytes(batch.clean[scene].expand(3, -1, -1)),
                    "noisy": rgb_bytes(noisy[scene]),
                    "restored": None if output.restored is None else rgb_bytes(output.restored[scene]),
                    "label": batch.labels[scene].tolist(),
                    "predicted": None if output.logits is None else output.logits[scene].argmax(-1).tolist(),
                    "corners": batch.corners[scene].flatten().tolist(),
                }
            )
    return rows


def run_model(model: SceneModel, noisy: Tensor, batch: SceneBatch, execution: Execution) -> Output:
    """Return the model's output on noisy scenes, the restored image in float32 and clamped to [0, 1] as the protocol says."""
    with torch.inference_mode(), execution.autocast():
        output: Output = model(noisy.contiguous(memory_format=execution.torch_format), batch.corners)
    restored = None if output.restored is None else output.restored.float().clamp(0, 1)
    return Output(restored, output.logits)


def _noisy(batch: SceneBatch, start: int, level: int, noise: NoiseParams, seed: int) -> Tensor:
    """Add noise that depends on (seed, image, level) alone; `start` is the number of the batch's first image."""
    n, _, height, width = batch.clean.shape
    drawn = evaluation_noise((3, height, width), seed=seed, images=range(start, start + n), level=level)
    noisy = batch.clean + drawn.to(batch.clean.device) * noise.sigmas[level]
    return noisy.clamp(0, 1) if noise.clip else noisy


def _score(output: Output, noisy: Tensor, batch: SceneBatch) -> dict[str, Tensor]:
    clean = batch.clean.expand(-1, 3, -1, -1)
    scores = {"noisy_error": squared_error_per_image(noisy, batch.clean), "noisy_ssim": ssim_per_image(noisy, clean)}
    if output.restored is not None:
        scores["error"] = squared_error_per_image(output.restored, batch.clean)
        scores["ssim"] = ssim_per_image(output.restored, clean)
    if output.logits is not None:
        scores["correct"] = judged(correct_digits(output.logits, batch.labels), output.logits)
    return {name: values.cpu() for name, values in scores.items()}


def judged(correct: Tensor, logits: Tensor) -> Tensor:
    """Return what is correct, float64; NaN where logits, classes last, are no numbers, of which argmax would still name a class."""
    return correct.double().where(logits.isfinite().all(-1), torch.nan)


def row_of(sigma: float, scores: dict[str, Tensor]) -> dict[str, Any]:
    """
    Return a row of `RECORD` from scores image by image, float64; columns of a task that has none are null.

    Raises:
        NumericalError: A score is NaN, or no image has a finite PSNR.
    """
    for name, values in scores.items():
        if values.isnan().any():
            raise NumericalError(
                f"The score {name!r} of {int(values.isnan().sum())} of {len(values)} test images is no number at sigma {sigma:g}.",
                remedy="evaluate in fp32 (precision: fp32 of this pipeline stage), or train the model again",
            )
    noisy_psnr = float(psnr_db(scores["noisy_error"]).mean())
    row: dict[str, Any] = {
        "sigma": sigma,
        "images": len(scores["noisy_error"]),
        "noisy_psnr_db": noisy_psnr if sigma > 0 else None,  # an image without noise has no finite PSNR
        "noisy_ssim": float(scores["noisy_ssim"].double().mean()),
        "psnr_db": None,
        "psnr_pooled_db": None,
        "exact": None,
        "ssim": None,
        "top1_pct": None,
    }
    if "error" in scores:
        row |= _psnr(sigma, scores["error"])
        row["ssim"] = float(scores["ssim"].double().mean())
    if "correct" in scores:
        row["top1_pct"] = 100 * float(scores["correct"].mean())
    return row


def _psnr(sigma: float, error: Tensor) -> dict[str, Any]:
    """Return the columns of PSNR; images that are restored exactly have none and are counted instead."""
    finite = error[error > 0]
    if not len(finite):
        raise NumericalError(
            f"All {len(error)} test images are restored to the last bit at sigma {sigma:g}: their PSNR is unbounded.",
            remedy="leave this noise level out, or test on other images",
        )
    return {
        "psnr_db": float(psnr_db(finite).mean()),
        "psnr_pooled_db": float(psnr_db(error.mean())),
        "exact": len(error) - len(finite),
    }


def rgb_bytes(image: Tensor) -> bytes:
    """Return height x width x 3 bytes, row-major, of an image of 3 x height x width, clamped to [0, 1]."""
    return bytes((image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().cpu().numpy().tobytes())
