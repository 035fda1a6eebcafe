"""The folder of a training's checkpoints."""

from pathlib import Path

import torch

from dcnas_lineage.inputs import training_folder
from dcnas_schema.provenance import Provenance
from dcnas_training.distributed import ALONE, Team
from dcnas_training.execution import Execution

_CODE = ("dcnas_retrain", "dcnas_training", "dcnas_nets", "dcnas_data", "dcnas_schema")
"""The schema too: it holds the search space, whose sizes are the net's."""


def checkpoint_folder(siblings: Path, *, execution: Execution, provenance: Provenance, team: Team = ALONE) -> Path:
    """
    Return the folder for the checkpoints of a run, and remove its siblings but the newest one (`training_folder`).

    Args:
        siblings: Folder of all checkpoints of a model and seed; the caller holds its lock.

        team: Those who train together, of whom the leader alone removes anything.
    """
    return training_folder(
        siblings,
        provenance,
        code=_CODE,
        execution=f"{execution.precision} {execution.memory_format}",
        capability=torch.backends.cpu.get_cpu_capability(),
        leads=team.leads,
    )
