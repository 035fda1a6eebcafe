"""
One pipeline stage run for another machine: check out home's commit, pull what the stage reads, run it, push what it made.

The commit is checked out into a worktree of the worker's clone, .scratch/worker/tree, so the clone itself stays as it is; the tree shares
the clone's DVC cache. Its dvc.lock holds the entries that home sent and nothing else, so nothing upstream can be run here by mistake. Home
stays the only writer of its own dvc.lock: what comes back to it are objects and a run-cache entry in the DVC remote.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, chdir, contextmanager
from pathlib import Path
from typing import Any

from dvc.config import Config
from dvc.repo import Repo
from dvc.utils.serialize import dump_yaml

from dcnas_flows.dvc_errors import dvc_errors_explained
from dcnas_flows.engine import Outcome, Result
from dcnas_flows.exchange import inputs_of, outputs_for, pull_outputs, push_outputs, push_run, remote_name
from dcnas_flows.orders import IDENTITY, OnLine, Order, git, require_kind, require_same_environment, require_same_inputs
from dcnas_flows.processes import RUNNING
from dcnas_flows.project import Project, running_stages, single
from dcnas_harness.errors import BadInputError, UnfitEnvironmentError
from dcnas_harness.files import atomic_write
from dcnas_harness.process import exclusive_run

_TREE = ".scratch/worker/tree"
_KEPT = (".scratch", "__pycache__")
"""What a tree keeps from one order to the next: checkpoints of interrupted stages, and bytecode."""
_POLL_S = 1.0


def work_off(clone: Path, order: Order, on_line: OnLine) -> Outcome:
    """
    Run the pipeline stage of an order in a tree of its commit, and push what it made.

    A second order in the same clone waits for the first. Outputs that the clone's cache holds are not made again, but pushed.

    Args:
        clone: The worker's clone of the project, set up, with `data/device.json` of its own machine where the project has one.

        on_line: Takes each line that DVC and the stage print, as it comes.

    Returns:
        RAN, RESTORED or FAILED, the last with the exit code of the stage's command.

    Raises:
        BadInputError: The clone has no such commit and cannot fetch it, or lacks the DVC remote.

        UnfitEnvironmentError: The environment, the device, or what the stage reads is not home's.

        DvcException: The DVC remote cannot be reached.

        KeyboardInterrupt: The work is being stopped.
    """
    clone = clone.resolve()
    require_same_environment(clone, order.environment)
    with _turn_in(clone, on_line):
        tree = _tree_of(clone, order, on_line)
        require_kind(tree, clone, order.kind)
        with _imports_from(tree), chdir(tree), Repo(str(tree)) as repo:
            return _run(repo, tree, order, on_line)


def _run(repo: Repo, tree: Path, order: Order, on_line: OnLine) -> Outcome:
    with dvc_errors_explained(tree):
        known = {stage.name: stage for stage in repo.index.stages}
    stage = known.get(order.stage)
    if stage is None:
        raise BadInputError(f"There is no pipeline stage {order.stage!r} in commit {order.commit[:12]}.")
    with repo.lock:
        on_line(f"pulling what {order.stage} reads")
        pull_outputs(repo, _sent_outputs(stage, known, order))
        stage.save_deps(allow_missing=True)
        require_same_inputs(order.expected, inputs_of(stage), order.stage)
    with running_stages(repo):
        outcome = Project(tree, repo, single(order.stage, stage), {order.stage: stage}).run(order.stage, on_line)
    if outcome.result is not Result.FAILED:
        with repo.lock:
            on_line(f"pushing what {order.stage} made")
            push_outputs(repo, stage.outs)
            push_run(repo, stage)
    return outcome


def _sent_outputs(stage: Any, known: dict[str, Any], order: Order) -> list[Any]:
    return outputs_for(stage, [known[name] for name in order.upstream if name in known])


@contextmanager
def _turn_in(clone: Path, on_line: OnLine) -> Iterator[None]:
    """Hold the clone's tree against other orders; wait while another process works one off."""
    with ExitStack() as held:
        said = False
        while True:
            try:
                held.enter_context(exclusive_run(clone / _TREE, clone / ".scratch"))
                break
            except UnfitEnvironmentError as busy:
                if not said:
                    on_line(f"waiting: {busy}")
                said = True
            RUNNING.require_going()
            time.sleep(_POLL_S)
        yield


def _tree_of(clone: Path, order: Order, on_line: OnLine) -> Path:
    """Make the tree what the commit is, with nothing of an earlier order in it but checkpoints, and configure its DVC."""
    _require_commit(clone, order.commit, on_line)
    tree = clone / _TREE
    if not _checked_out(tree, order.commit):
        on_line(f"checking out {order.commit[:12]} anew")
        shutil.rmtree(tree, ignore_errors=True)
        git(clone, "worktree", "prune")
        tree.parent.mkdir(parents=True, exist_ok=True)
        if git(clone, "worktree", "add", "--quiet", "--detach", "--force", str(tree), order.commit) is None:
            raise UnfitEnvironmentError(
                f"Commit {order.commit[:12]} cannot be checked out.",
                where=tree,
                remedy="see why: git worktree add, with that folder",
            )
    identity = clone / IDENTITY
    if identity.is_file():
        with atomic_write(tree / IDENTITY) as temporary:
            shutil.copyfile(identity, temporary)
    _configure(clone, tree, order)
    return tree


def _checked_out(tree: Path, commit: str) -> bool:
    kept = [f"--exclude={name}" for name in _KEPT]
    return (
        (tree / ".git").is_file()
        and git(tree, "checkout", "--quiet", "--detach", "--force", commit) is not None
        and git(tree, "clean", "--quiet", "-ffdx", *kept) is not None
    )


def _require_commit(clone: Path, commit: str, on_line: OnLine) -> None:
    if git(clone, "cat-file", "-e", f"{commit}^{{commit}}") is not None:
        return
    on_line("fetching from the clone's git remotes")
    git(clone, "fetch", "--quiet", "--all", "--tags")
    if git(clone, "cat-file", "-e", f"{commit}^{{commit}}") is None:
        raise BadInputError(
            f"Commit {commit[:12]} of home is not to be had from the git remotes of this worker's clone.",
            where=clone,
            remedy="push it from home: git push",
        )


def _configure(clone: Path, tree: Path, order: Order) -> None:
    """Write the tree's .dvc/config.local: the clone's cache, and the remote as the clone has it."""
    with Repo(str(clone)) as repo:
        remote_name(repo)  # refuses where there is none
        remotes = repo.config["remote"]
        if order.remote not in remotes:
            raise BadInputError(
                f"The DVC remote {order.remote!r}, which home uses, is not configured in this worker's clone.",
                where=clone,
                remedy=f"dvc remote add --local {order.remote} URL",
            )
        remote = {key: str(value) for key, value in remotes[order.remote].items()}
        cache = str(repo.cache.local_cache_dir)
    place = tree / ".dvc/config.local"
    place.touch(mode=0o600)  # a remote's configuration may hold secrets
    with Config(str(tree / ".dvc")).edit("local") as local:
        local["cache"] = {"dir": cache}
        local["core"] = {"remote": order.remote}
        local["remote"] = {order.remote: remote}
    (tree / "dvc.lock").unlink(missing_ok=True)
    if order.upstream:
        dump_yaml(str(tree / "dvc.lock"), {"schema": "2.0", "stages": order.upstream})


@contextmanager
def _imports_from(tree: Path) -> Iterator[None]:
    """Have the stage's process import the project's packages from the tree: an editable installation would be that of the clone."""
    before = os.environ.get("PYTHONPATH")
    sources = sorted(str(path) for pattern in ("packages/*/src", "stages/*/src") for path in tree.glob(pattern))
    os.environ["PYTHONPATH"] = os.pathsep.join([*sources, *([before] if before else [])])
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
