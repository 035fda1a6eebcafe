"""The exports as commands: written, signed and verified."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from dcnas_lineage.exports.intoto import check_subjects, write_intoto
from dcnas_lineage.exports.prov import write_prov
from dcnas_lineage.exports.rocrate import write_rocrate
from dcnas_lineage.exports.signing import NAMESPACE, sign, verify
from dcnas_lineage.exports.state import ProjectState, load_state

ExportFormat = Literal["rocrate", "intoto", "prov"]


def export(root: Path, form: ExportFormat, out: Path, *, key: Path | None, with_data: bool) -> None:
    """
    Write an export of the project's state, sign it where a key is given, and say what was written.

    Raises:
        BadInputError: The pipeline has not run to its end, or the key is none.

        CorruptArtefactError: A file is not the one that its run made.
    """
    writers: dict[str, Callable[[ProjectState, Path], Path]] = {
        "rocrate": lambda state, target: write_rocrate(state, target, with_data=with_data),
        "intoto": write_intoto,
        "prov": write_prov,
    }
    state = load_state(root)
    written = writers[form](state, out)
    print(f"{written}: {len(state.runs)} runs, {len(state.results)} results, {written.stat().st_size / 1e6:.1f} MB")
    if key is not None:
        print(f"{sign(written, key)}: signed with {key} in the namespace {NAMESPACE}")


def verify_export(root: Path, file: Path, allowed_signers: Path) -> None:
    """
    Verify the signature of an in-toto statement and hash its subjects again; say who vouches for how many.

    Raises:
        CorruptArtefactError: The statement or a subject was changed, or the signature is no allowed signer's.
    """
    signer = verify(file, allowed_signers)
    print(f"{file}: signed by {signer}, {check_subjects(file, root)} subjects hold")
