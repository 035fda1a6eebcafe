"""Score a model on test photos, level by level, image by image."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dcnas_data.noise import evaluation_noise
from dcnas_data.photo_loader import PhotoBatch, PhotoStore
from dcnas_data.photo_views import CentreView
from dcnas_evaluate.score import judged, rgb_bytes, row_of
from dcnas_harness.console import progress
from dcnas_nets.space import SpaceOutput
from dcnas_schema.photo_params import PhotoViewParams
from dcnas_schema.photo_training import EvaluatePhotosParams, PhotoNoiseParams
from dcnas_training.execution import Execution
from dcnas_training.metrics import correct_among, squared_error_per_image, ssim_per_image

_TOP = (1, 5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scorer:
    """Scores one model, which is in eval mode on its device, on one split."""

    model: nn.Module
    """Gives `SpaceOutput`."""
    photos: PhotoStore
    view: PhotoViewParams
    noise: PhotoNoiseParams
    params: EvaluatePhotosParams
    execution: Execution

    def score(self, label: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """
        Return one row of `PHOTO_RECORD` for each noise level, over all photos; and rows of `PHOTO_PANEL`: the first photos of as many
        classes as there are, with the noise that they are scored with. Each photo is decoded once.
        """
        wanted = first_of_each_class(self.photos.labels.tolist(), self.params.panel.images)
        shown = self.params.panel.sigmas
        found: list[dict[str, list[Tensor]]] = [{} for _ in self.noise.sigmas]
        panel: list[dict[str, Any]] = []
        done = 0
        with progress(label, len(self.photos)) as report:
            for batch in self.photos.in_order(self.params.batch_size, CentreView(self.view)):
                for level, sigma in enumerate(self.noise.sigmas):
                    noisy = self._noisy(batch, level)
                    output = self._run(noisy)
                    for name, values in _scores(output, noisy, batch).items():
                        found[level].setdefault(name, []).append(values)
                    if sigma in shown:
                        panel += _panel_rows(output, noisy, batch, sigma, wanted)
                done += len(batch.labels)
                report.update(done)
        rows = [
            _row(sigma, {name: torch.cat(values) for name, values in scores.items()})
            for sigma, scores in zip(self.noise.sigmas, found, strict=True)
        ]
        return rows, sorted(panel, key=lambda row: (shown.index(row["sigma"]), row["image"]))

    def _noisy(self, batch: PhotoBatch, level: int) -> Tensor:
        """Add noise that depends on (seed, image, level) alone."""
        _, _, height, width = batch.clean.shape
        numbers = batch.numbers.tolist()
        drawn = evaluation_noise((3, height, width), seed=self.params.noise_seed, images=numbers, level=level)
        noisy = batch.clean + drawn.to(batch.clean.device) * self.noise.sigmas[level]
        return noisy.clamp(0, 1) if self.noise.clip else noisy

    def _run(self, noisy: Tensor) -> SpaceOutput:
        """Return the output, the restored photos in float32 and clamped to [0, 1] as the protocol says."""
        with torch.inference_mode(), self.execution.autocast():
            output: SpaceOutput = self.model(noisy.contiguous(memory_format=self.execution.torch_format))
        restored = None if output.restored is None else output.restored.float().clamp(0, 1)
        return SpaceOutput(restored, output.logits)


def first_of_each_class(labels: Sequence[int], count: int) -> set[int]:
    """Return the numbers of `count` images: the first of each class in turn, then the second of each, and so on."""
    seen: dict[int, int] = {}
    ranked = []
    for number, label in enumerate(labels):
        seen[label] = seen.get(label, 0) + 1
        ranked.append((seen[label], label, number))
    return {number for _, _, number in sorted(ranked)[:count]}


def _scores(output: SpaceOutput, noisy: Tensor, batch: PhotoBatch) -> dict[str, Tensor]:
    clean = batch.clean
    scores = {"noisy_error": squared_error_per_image(noisy, clean), "noisy_ssim": ssim_per_image(noisy, clean)}
    if output.restored is not None:
        scores["error"] = squared_error_per_image(output.restored, clean)
        scores["ssim"] = ssim_per_image(output.restored, clean)
    if output.logits is not None:
        logits = output.logits.float()
        right = {count: judged(correct_among(logits, batch.labels, count), logits) for count in _TOP}
        scores["correct"], scores["correct_5"] = right[1], right[5]
    return {name: values.cpu() for name, values in scores.items()}


def _row(sigma: float, scores: dict[str, Tensor]) -> dict[str, Any]:
    top5 = 100 * float(scores["correct_5"].mean()) if "correct_5" in scores else None
    return {**row_of(sigma, scores), "top5_pct": top5}


def _panel_rows(
    output: SpaceOutput, noisy: Tensor, batch: PhotoBatch, sigma: float, wanted: set[int]
) -> Iterator[dict[str, Any]]:
    """Yield the rows of those photos of the batch whose numbers are wanted."""
    for i, number in enumerate(batch.numbers.tolist()):
        if number not in wanted:
            continue
        yield {
            "image": number,
            "sigma": sigma,
            "height": noisy.shape[2],
            "width": noisy.shape[3],
            "clean": rgb_bytes(batch.clean[i]),
            "noisy": rgb_bytes(noisy[i]),
            "restored": None if output.restored is None else rgb_bytes(output.restored[i]),
            "label": int(batch.labels[i]),
            "predicted": None if output.logits is None else int(output.logits[i].argmax()),
        }
