"""The exports as commands: written, signed and verified."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from dcnas_lineage.exports.intoto import check_subjects, write_intoto
from dcnas_lineage.exports.prov import write_prov
from dcnas_lineage.exports.rocrate import check_crate, write_rocrate
from dcnas_lineage.exports.signing import NAMESPACE, sign, signature_of, verify
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
    signature_of(out).unlink(missing_ok=True)  # of what lay there before
    written = writers[form](state, out)
    print(f"{written}: {len(state.runs)} runs, {len(state.results)} results, {written.stat().st_size / 1e6:.1f} MB")
    if key is not None:
        print(f"{sign(written, key)}: signed with {key} in the namespace {NAMESPACE}")


def verify_export(file: Path, allowed_signers: Path, *, results: Path | None, find_root: Callable[[], Path]) -> None:
    """
    Verify the signature of an in-toto statement or a crate, and hash again what it names; say who vouches for how many files.

    Args:
        results: The folder that stands in for results/ where a statement names files of it; `None` for results/ itself.

        find_root: Returns the project's folder; called where it is needed, because a crate or a copy of results is verified anywhere.

    Raises:
        CorruptArtefactError: The export or a file that it names was changed, or the signature is no allowed signer's.
    """
    signer = verify(file, allowed_signers)
    if zipfile.is_zipfile(file):
        what = f"{check_crate(file)} files in it hold"
    elif results is None:
        what = f"{check_subjects(file, find_root())} subjects hold"
    else:
        what = f"{check_subjects(file, results, of_results=True)} subjects hold"
    print(f"{file}: signed by {signer}, {what}")
