"""The flows that keep watch: the audit of every printed number, and the removal of what nothing needs any more."""

from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from dcnas_flows.auditing import HOLDS, TableAudit, audited
from dcnas_flows.flow import publish
from dcnas_flows.garbage import Freed, Keep, collect
from dcnas_flows.job import in_project
from dcnas_flows.project import held

_SHOWN = 200
"""Most rows of findings and of freed objects that an artifact lists; what is left out is counted."""


@flow(name="nightly-audit", persist_result=False)
def nightly_audit(tables: list[str] = []) -> State[Any]:  # noqa: B006 - never changed; the UI's form shows it
    """
    Walk from every printed number to its data and hash every file again; the run fails where one does not hold.

    Args:
        tables: Names of tables in results/, such as table_1; none means all.

    Raises:
        BadInputError: There is no such table, or none at all.
    """
    return in_project(lambda root: _audited(root, tables))


@task(name="audit", persist_result=False, cache_policy=NO_CACHE)
def audit_tables(root: Path, tables: list[str]) -> list[TableAudit]:
    """Audit the tables and publish what was found."""
    log, audits = get_run_logger(), []
    for audit in audited(root, tables):
        log.info("%s: %s", audit.table, _counts(audit))
        for finding in audit.findings:
            log.error("%s %s, %s: %s: %s", finding.verdict, finding.row, finding.column, finding.edge, finding.problem)
        audits.append(audit)
    publish(
        [
            partial(create_table_artifact, key="audit", table=_audit_rows(audits), description=_summary(audits)),
            partial(create_markdown_artifact, key="audit-findings", markdown=_findings(audits)),
        ]
    )
    return audits


@flow(name="collect-garbage", persist_result=False)
def collect_garbage(
    keep: Keep = Keep.TAGS,
    scratch_days: float = 14.0,
    sharers: list[str] = [],  # noqa: B006 - never changed; the UI's form shows it
    dry_run: bool = False,
) -> State[Any]:
    """
    Remove from DVC's cache what neither the workspace nor a kept commit needs, and interrupted work that nobody took up again.

    Args:
        keep: Whose outputs stay, beside those of the workspace and of experiments. Those of tags always do.

        scratch_days: Age in days from which interrupted work goes.

        sharers: Folders of other clones that use the same cache; what they need stays too.

        dry_run: Only say what would go.

    Raises:
        BadInputError: The cache is shared and `sharers` names nobody, or DVC cannot tell what is needed; nothing is removed then.

        UnfitEnvironmentError: A dvc process is at work there.
    """
    return in_project(lambda root: _collected(root, keep, scratch_days, sharers, dry_run))


def _audited(root: Path, tables: list[str]) -> State[Any]:
    with held(root):
        audits = audit_tables(root, tables)
    message = _summary(audits)
    holds = not any(audit.findings for audit in audits)
    return Completed(message=message, data=message) if holds else Failed(message=message, data=message)


def _collected(root: Path, keep: Keep, scratch_days: float, sharers: list[str], dry_run: bool) -> State[Any]:
    freed = collect(
        root, keep=keep, scratch_days=scratch_days, sharers=[Path(folder) for folder in sharers], dry_run=dry_run
    )
    get_run_logger().info(str(freed))
    publish([partial(create_table_artifact, key="garbage", table=_freed_rows(freed), description=str(freed))])
    return Completed(message=str(freed), data=str(freed))


def _summary(audits: list[TableAudit]) -> str:
    bad = sum(len(audit.findings) for audit in audits)
    cells = sum(audit.verdicts.total() for audit in audits)
    return f"{cells - bad} of {cells} cells in {len(audits)} tables hold"


def _counts(audit: TableAudit) -> str:
    return ", ".join(f"{count} {verdict}" for verdict, count in sorted(audit.verdicts.items()))


def _audit_rows(audits: list[TableAudit]) -> list[dict[str, Any]]:
    verdicts = sorted({HOLDS, *(name for audit in audits for name in audit.verdicts)}, key=lambda name: name != HOLDS)
    return [{"table": audit.table, **{name: audit.verdicts[name] for name in verdicts}} for audit in audits]


def _findings(audits: list[TableAudit]) -> str:
    findings = [finding for audit in audits for finding in audit.findings]
    lines = [
        f"- **{item.verdict}** {item.table}: {item.row}, {item.column}\n  - `{item.edge}`: {item.problem}"
        for item in findings[:_SHOWN]
    ]
    left_out = len(findings) - len(lines)
    more = [f"- and {left_out} more, in the log"] if left_out else []
    return "\n".join([f"# {_summary(audits)}", "", *lines, *more])


def _freed_rows(freed: Freed) -> list[dict[str, Any]]:
    both = [("cache", *item) for item in freed.objects] + [("scratch", *item) for item in freed.scratch]
    both.sort(key=lambda row: -row[2])
    rows = [{"what": what, "path": path, "bytes": size} for what, path, size in both[:_SHOWN]]
    left_out = both[_SHOWN:]
    if left_out:
        rows.append({"what": f"{len(left_out)} more", "path": "", "bytes": sum(size for *_, size in left_out)})
    return rows
