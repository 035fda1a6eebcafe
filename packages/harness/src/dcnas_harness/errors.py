"""Errors that name the thing, the value and the remedy, each with the exit code of its class."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command of the project."""

    OK = 0
    BUG = 1
    BAD_INPUT = 2
    UNFIT_ENVIRONMENT = 3
    CORRUPT_ARTEFACT = 4
    NUMERICAL_FAILURE = 5
    AUDIT_STALE = 10
    AUDIT_UNVERIFIABLE = 11
    AUDIT_BROKEN = 12
    INTERRUPTED = 130
    TERMINATED = 143


class DcnasError(Exception):
    """
    Base of all errors that a user can do something about.

    Args:
        what: What is wrong, with the offending value.

        where: The file, key or row concerned; `None` where `what` says it.

        remedy: What to do about it.
    """

    exit_code: ExitCode = ExitCode.BUG

    def __init__(self, what: str, *, where: object = None, remedy: str | None = None) -> None:
        lines = [what]
        if where is not None:
            lines.append(f"  where:  {where}")
        if remedy is not None:
            lines.append(f"  remedy: {remedy}")
        super().__init__("\n".join(lines))


class BadInputError(DcnasError):
    """A parameter, argument or input file given by the user is wrong (exit 2)."""

    exit_code = ExitCode.BAD_INPUT


class UnfitEnvironmentError(DcnasError):
    """The machine cannot do the work now: disk full, device absent or busy, another run in progress (exit 3)."""

    exit_code = ExitCode.UNFIT_ENVIRONMENT


class CorruptArtefactError(DcnasError):
    """A file that an earlier pipeline stage wrote is damaged or does not fit (exit 4)."""

    exit_code = ExitCode.CORRUPT_ARTEFACT


class NumericalError(DcnasError):
    """Training produced a value that is not finite (exit 5)."""

    exit_code = ExitCode.NUMERICAL_FAILURE
