"""The folder of a run's checkpoints, named by everything that its weights depend on."""

import shutil
from pathlib import Path

import torch

from dcnas_lineage.inputs import run_digest
from dcnas_schema.provenance import DeviceCard, Provenance
from dcnas_training.distributed import ALONE, Team
from dcnas_training.execution import Execution

_CODE = ("dcnas_retrain", "dcnas_training", "dcnas_nets", "dcnas_data", "dcnas_schema")
"""The schema too: it holds the search space, whose sizes are the net's."""

_LIBRARIES = ("torchvision", "timm", "pytorch-msssim")
"""Beside torch, where nets, views and losses come from."""


def checkpoint_folder(siblings: Path, *, execution: Execution, provenance: Provenance, team: Team = ALONE) -> Path:
    """
    Return the folder for the checkpoints of a run, and remove its siblings but the newest one.

    A run takes up none of other code, parameters, data or library versions; but whoever takes a change back finds what was trained before.

    Args:
        siblings: Folder of all checkpoints of a model and seed; the caller holds its lock.

        team: How many train together decides the last bits of the weights; the leader alone removes anything.
    """
    digest = run_digest(
        {
            **{Path(path).name: sha256 for path, sha256 in provenance.inputs.items()},
            "params": provenance.params_sha256,
            "seed": str(provenance.seed),
            "execution": f"{execution.precision} {execution.memory_format}",
            "device": _fingerprint(provenance.device),
            **({"processes": str(team.size)} if team.size > 1 else {}),
            **{name: provenance.versions.get(name, "") for name in _LIBRARIES},
        },
        _CODE,
    )
    folder = siblings / digest[:24]
    others = sorted((path for path in siblings.glob("*") if path != folder), key=lambda path: path.stat().st_mtime)
    for other in others[:-1] if team.leads else ():
        shutil.rmtree(other)
    return folder


def _fingerprint(card: DeviceCard) -> str:
    return (
        f"{card.kind} {card.name} {card.threads} threads, torch {card.torch} {torch.backends.cpu.get_cpu_capability()}"
    )
