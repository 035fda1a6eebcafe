"""
Write a made-up evaluation record and panel, with a latency as the table of `--lut` says.

Run:    python -m mini_evaluate --model unet_s --seed 0 --scenes data/generate_data/digits --trained data/retrain/unet_s/0 \
            --lut data/profile_latency/lut.json --out data/evaluate/unet_s/0
Expect: record.parquet and panel.parquet
"""

import pyarrow as pa
from mini_retrain import arguments, generator, provenance

from dcnas_harness.files import read_json
from dcnas_harness.process import run_stage
from dcnas_schema.parquet import with_metadata, write_parquet
from dcnas_schema.provenance import DeviceState
from dcnas_schema.records import (
    PANEL,
    RECORD,
    Cost,
    EvaluationMetadata,
    MeasuredLatency,
    PanelMetadata,
    Protocol,
)

SIZE = 56


def main() -> None:
    """Write the files."""
    given, params = arguments()
    inputs = [given.scenes / "test.parquet", given.trained / "weights.safetensors", given.trained / "log.parquet"]
    made = provenance("evaluate", given, params, [*inputs, given.lut])
    median_ms = read_json(given.lut)["median_ms"]
    latency = MeasuredLatency(
        batch=32, height=SIZE, width=SIZE, precision="fp32", memory_format="contiguous", warmup=2, repeats=10,
        median_ms=median_ms, p5_ms=median_ms - 1, p95_ms=median_ms + 2, device_median_ms=None,
        before=DeviceState(), after=DeviceState(),
    )  # fmt: skip
    metadata = EvaluationMetadata(
        model=given.model, seed=given.seed, spec=params.models[given.model], epochs=2,
        protocol=Protocol(sigmas=params.noise.sigmas, clip_noisy=False, noise_seed=0, precision="fp32"),
        cost=Cost(macs=3_000_000, macs_one_digit=2_500_000, parameters=12_345, height=SIZE, width=SIZE),
        latency=latency, provenance=made,
    )  # fmt: skip
    luck = generator(given.model, given.seed)
    rows = [
        {
            "sigma": sigma, "images": 8, "noisy_psnr_db": 20.0 - 10 * sigma, "noisy_ssim": 0.5,
            "psnr_db": 30.0 - 5 * sigma + luck.normal(), "psnr_pooled_db": 29.0, "ssim": 0.9 - 0.1 * luck.uniform(),
            "top1_pct": 90.0 - 5 * luck.uniform(),
        }
        for sigma in params.noise.sigmas
    ]  # fmt: skip
    filled = [{name: row.get(name) for name in RECORD.names} for row in rows]
    batch = pa.RecordBatch.from_pylist(filled, schema=RECORD)
    write_parquet(given.out / "record.parquet", with_metadata(RECORD, metadata), [batch])
    image = bytes(SIZE * SIZE * 3)
    panel = {
        "scene": 0, "sigma": 0.5, "height": SIZE, "width": SIZE, "clean": image, "noisy": image, "restored": image,
        "label": [3, 7], "predicted": [3, 1], "corners": [0, 0, 28, 28],
    }  # fmt: skip
    about = PanelMetadata(model=given.model, seed=given.seed, provenance=made)
    batch = pa.RecordBatch.from_pylist([panel], schema=PANEL)
    write_parquet(given.out / "panel.parquet", with_metadata(PANEL, about), [batch])


if __name__ == "__main__":
    run_stage(main)
