"""
Run a pipeline stage and leave its run record behind, in this process.

Run:    python -m dcnas_lineage.run retrain@unet_s-0 -- dcnas_retrain --model unet_s --seed 0 ...
Takes:  dvc.yaml and params.yaml of the current folder, which say what the stage reads, takes and makes; the command must be dvc.yaml's.
        The stage alone, without record, dvc.yaml and DVC: python -m dcnas_retrain --model unet_s --seed 0 ...
Expect: what the stage makes, then data/runs/STAGE.json; the stage's exit code. Exit 3, and no outputs, where something that the stage read
        changed while it ran; exit 4 where an input is not what the record of its maker says
"""

import sys
from importlib import import_module
from pathlib import Path

from dcnas_harness.errors import BadInputError
from dcnas_harness.process import die_with_parent, run_stage
from dcnas_lineage.recording import Recording

_USAGE = "python -m dcnas_lineage.run STAGE -- MODULE [ARGUMENT...]"


def main() -> None:
    """Look at what the stage reads, run it, look again, write the record."""
    if len(sys.argv) < 4 or sys.argv[2] != "--":
        raise BadInputError(f"usage: {_USAGE}")
    _, name, _, module, *arguments = sys.argv
    die_with_parent()
    recording = Recording(Path(), name, (module, *arguments))
    sys.argv = [module, *arguments]
    import_module(f"{module}.__main__").main()
    recording.finish()


if __name__ == "__main__":
    run_stage(main)
