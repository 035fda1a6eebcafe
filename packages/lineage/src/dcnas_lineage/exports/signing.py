"""
Signatures of exports, by OpenSSH: `ssh-keygen -Y sign` beside the file, `ssh-keygen -Y verify` against a list of allowed signers.

FILE.sig signs the bytes of FILE in the namespace `dcnas-export`, so that no signature made for git or for mail passes for one of an export.
A line of the list (ssh-keygen(1), ALLOWED SIGNERS): `name@example.org namespaces="dcnas-export" ssh-ed25519 AAAA...`.
"""

import subprocess
from pathlib import Path

from dcnas_harness.errors import BadInputError, CorruptArtefactError, UnfitEnvironmentError

NAMESPACE = "dcnas-export"
_PATIENCE_S = 300
"""Long enough to type a passphrase or to touch a hardware key."""


def signature_of(file: Path) -> Path:
    """Return where the signature of a file lies."""
    return file.with_name(f"{file.name}.sig")


def sign(file: Path, key: Path) -> Path:
    """
    Sign a file and return the signature's path; an older signature is replaced.

    Args:
        key: Private key of ssh, or the public one of a key that ssh-agent holds.

    Raises:
        BadInputError: There is no such key, or ssh-keygen cannot sign with it.

        UnfitEnvironmentError: ssh-keygen is not installed.
    """
    if not key.is_file():
        raise BadInputError(f"There is no key {key}.", remedy="make one with: ssh-keygen -t ed25519 -f KEY")
    signature = signature_of(file)
    signature.unlink(missing_ok=True)  # ssh-keygen would ask whether to overwrite it
    done = _ssh_keygen("sign", "-f", str(key), "-n", NAMESPACE, str(file))
    if done.returncode != 0 or not signature.is_file():
        raise BadInputError(
            f"ssh-keygen cannot sign {file} with {key}:\n{done.stderr.strip()}", remedy="is it a private key of ssh?"
        )
    return signature


def verify(file: Path, allowed_signers: Path) -> str:
    """
    Return who signed a file, by the name that the list of allowed signers gives.

    Raises:
        BadInputError: There is no such file or list.

        CorruptArtefactError: It is not signed, was changed since, or was signed by somebody else or for another purpose.

        UnfitEnvironmentError: ssh-keygen is not installed.
    """
    for needed in (file, allowed_signers):
        if not needed.is_file():
            raise BadInputError(f"{needed} does not exist.")
    signature = signature_of(file)
    if not signature.is_file():
        raise CorruptArtefactError(
            f"{file} is not signed: {signature} does not exist.", remedy="export it with --sign KEY"
        )
    names = ("-s", str(signature), "-f", str(allowed_signers))
    found = _ssh_keygen("find-principals", *names)
    principals = found.stdout.replace(",", " ").split() if found.returncode == 0 else []
    answers = []
    for principal in principals:
        done = _ssh_keygen("verify", "-n", NAMESPACE, "-I", principal, *names, given=file)
        if done.returncode == 0:
            return principal
        answers.append(done.stderr.strip() or done.stdout.strip())
    reason = "\n".join(answers) or f"its key is not in {allowed_signers}: {found.stderr.strip()}"
    raise CorruptArtefactError(
        f"The signature {signature} does not hold for {file}.",
        where=reason,
        remedy="trust neither; export and sign anew",
    )


def _ssh_keygen(action: str, *arguments: str, given: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = ["ssh-keygen", "-Y", action, *arguments]
    try:
        if given is None:
            return subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_PATIENCE_S
            )
        with given.open("rb") as content:
            return subprocess.run(
                command, stdin=content, capture_output=True, text=True, check=False, timeout=_PATIENCE_S
            )
    except FileNotFoundError as error:
        raise UnfitEnvironmentError(
            "ssh-keygen is not installed.", remedy="install OpenSSH's client, 8.2 or later"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise UnfitEnvironmentError(
            f"ssh-keygen did not end within {_PATIENCE_S} s.", remedy="is it waiting for a key?"
        ) from error
