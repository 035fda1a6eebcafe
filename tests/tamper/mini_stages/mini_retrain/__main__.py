"""
Write made-up weights and a training log.

Run:    python -m mini_retrain --model unet_s --seed 0 --scenes data/generate_data/digits --out data/retrain/unet_s/0
Expect: weights.safetensors and log.parquet
"""

import pyarrow as pa

from dcnas_harness.files import atomic_write, sha256_of
from dcnas_harness.process import run_stage
from dcnas_schema.parquet import with_metadata, write_parquet
from dcnas_schema.records import TRAINING_LOG, TrainingMetadata
from mini_retrain import arguments, generator, provenance


def main() -> None:
    """Write the files."""
    given, params = arguments()
    weights = given.out / "weights.safetensors"
    with atomic_write(weights) as temporary:
        temporary.write_bytes(generator(given.model, given.seed, params.retrain.learning_rate).bytes(4096))
    metadata = TrainingMetadata(
        model=given.model, seed=given.seed, spec=params.models[given.model], epochs=2, batch_size=8, train_scenes=32,
        precision="fp32", memory_format="contiguous", weights_sha256=sha256_of(weights),
        provenance=provenance(
            "retrain", given, params, [given.scenes / "train.parquet", given.scenes / "validation.parquet"]
        ),
    )  # fmt: skip
    row = {"epoch": 1, "learning_rate": 1e-3, "train_loss": 0.5, "validation_loss": 0.6}
    rows = pa.RecordBatch.from_pylist([{name: row.get(name, 1.0) for name in TRAINING_LOG.names}], schema=TRAINING_LOG)
    write_parquet(given.out / "log.parquet", with_metadata(TRAINING_LOG, metadata), [rows])


if __name__ == "__main__":
    run_stage(main)
