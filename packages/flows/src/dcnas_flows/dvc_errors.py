"""What DVC raises, as the project's own errors: what is wrong, where, and what to do."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.lock import LockError

from dcnas_harness.errors import BadInputError, DcnasError, UnfitEnvironmentError
from dcnas_harness.files import disk_errors_explained

LOCK = "dvc.lock"
LOCK_COPY = ".scratch/flows/dvc.lock"
"""Where each flow keeps dvc.lock as it found it."""


def explained(error: Exception, root: Path) -> Exception:
    """Return what stopped DVC, a full disk or a read-only one as the project's own error."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            try:
                with disk_errors_explained(Path(cause.filename or root)):
                    raise cause
            except DcnasError as ours:
                return ours
    return error if str(error) else DvcException(": ".join(filter(None, map(str, _causes(error)))) or repr(error))


@contextmanager
def dvc_errors_explained(root: Path) -> Iterator[None]:
    """Turn what DVC raises over the project in `root` into BadInputError and, where another dvc is at work, UnfitEnvironmentError."""
    try:
        yield
    except LockError as error:
        raise UnfitEnvironmentError(
            f"Another dvc process is at work in {root}: {error}", remedy="wait for it to end, then run the same again"
        ) from error
    except DvcException as error:
        message = ": ".join(map(str, _causes(error)))
        remedy = "correct it, then ask: dvc status"
        if LOCK in message and (root / LOCK_COPY).is_file():
            remedy = f"take back the copy made before the last flow: cp {LOCK_COPY} {LOCK}"
        raise BadInputError(f"DVC cannot read the pipeline: {message}", where=root, remedy=remedy) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
