"""Stands in for retrain, in milliseconds: made-up weights and a training log; and what it shares with mini_evaluate."""

import argparse
from pathlib import Path

import numpy as np

from dcnas_lineage.collect import collect_provenance
from dcnas_lineage.machine import read_machine
from dcnas_schema.params import Params, digest_of, load_params
from dcnas_schema.provenance import DeviceCard, Provenance


def arguments() -> tuple[argparse.Namespace, Params]:
    """Return the arguments that the real stages take, and the parameters."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--seed", type=int, required=True)
    for name in ("--scenes", "--trained", "--lut", "--out"):
        parser.add_argument(name, type=Path)
    return parser.parse_args(), load_params(Path("params.yaml"))


def provenance(name: str, given: argparse.Namespace, params: Params, inputs: list[Path]) -> Provenance:
    """Return the provenance of an output, with the inputs' hashes and a card of this machine."""
    machine = read_machine(gpu=False)
    card = DeviceCard(
        kind="cpu", name="Test CPU", cpu_model=machine.cpu_model, cores=machine.cores, threads=1,
        python="3", torch="0", system=machine.system,
    )  # fmt: skip
    return collect_provenance(
        stage=name, item=f"{given.model}-{given.seed}", params_sha256=digest_of(params.retrain), seed=given.seed,
        inputs=inputs, device=card,
    )  # fmt: skip


def generator(*words: object) -> np.random.Generator:
    """Return a generator that the words alone decide."""
    return np.random.Generator(np.random.PCG64(list("/".join(map(str, words)).encode())))
