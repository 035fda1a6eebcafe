"""What runs by itself, as prefect.yaml says it, and what garbage collection takes and leaves; no server here."""

import hashlib
import os
import subprocess
import time
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from zoneinfo import available_timezones

import pytest
from dvc.repo import Repo

from dcnas_flows.deployments import read_deployments
from dcnas_flows.garbage import Keep, collect
from dcnas_flows.project import ProjectBusyError, held
from dcnas_harness.errors import BadInputError

NewProject = Callable[[Path, str], Path]

PIPELINE = (
    "stages: {make: {cmd: exec python work.py write made.txt version.txt, deps: [version.txt], outs: [made.txt]}}"
)


def git(root: Path, *arguments: str) -> None:
    """Run git in a project."""
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.invalid"]
    subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True)


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory, new_project: NewProject) -> Path:
    """A project whose output has had four versions: of a tag, of a branch's head, of a commit in between, of the workspace."""
    root = new_project(tmp_path_factory.mktemp("versions") / "project", PIPELINE)
    with (root / ".gitignore").open("a") as ignored:
        ignored.write("/made.txt\n")
    with chdir(root):
        for version in ("tag", "branch", "commit", "workspace"):
            (root / "version.txt").write_text(version)
            (root / "made.txt").write_text(made_of(version))
            with Repo(str(root)) as repo:
                repo.commit("make", force=True)
            git(root, "add", "--all")
            git(root, "commit", "--quiet", "--message", version)
            if version in ("tag", "branch"):
                git(root, version, f"kept-{version}")
    return root


def made_of(version: str) -> str:
    """Return the content of the output of a version."""
    return f"made of {version}"


def cached(root: Path) -> set[str]:
    """Return the versions whose output is in the cache."""
    there = {path.read_text() for path in (root / ".dvc/cache/files/md5").rglob("*") if path.is_file()}
    return {version for version in ("tag", "branch", "commit", "workspace") if made_of(version) in there}


def freed(root: Path, keep: Keep, *, dry_run: bool = False) -> set[str]:
    """Collect garbage and return the versions that are said to have been freed."""
    known = {md5(version): version for version in ("tag", "branch", "commit", "workspace")}
    said = collect(root, keep=keep, scratch_days=14, sharers=[], dry_run=dry_run)
    assert all(size == len(made_of(known["".join(Path(path).parts[-2:])])) for path, size in said.objects)
    return {known["".join(Path(path).parts[-2:])] for path, _ in said.objects}


def md5(version: str) -> str:
    """Return the name of a version's output in the cache."""
    return hashlib.md5(made_of(version).encode(), usedforsecurity=False).hexdigest()


def test_garbage_is_what_nothing_kept_needs(versions: Path) -> None:
    """Each way to keep takes exactly what it does not name; tags and the workspace stay always; a dry run takes nothing."""
    everything = {"tag", "branch", "commit", "workspace"}
    assert cached(versions) == everything
    assert freed(versions, Keep.COMMITS) == set()
    assert freed(versions, Keep.TAGS, dry_run=True) == {"branch", "commit"}
    assert cached(versions) == everything
    assert freed(versions, Keep.BRANCHES) == {"commit"}
    assert cached(versions) == everything - {"commit"}
    assert freed(versions, Keep.TAGS) == {"branch"}
    assert cached(versions) == {"tag", "workspace"}


def test_interrupted_work_goes_when_it_is_old(versions: Path) -> None:
    """A work folder goes whole when its newest file is old, never in part; locks stay."""
    old = time.time() - 20 * 86_400
    ages = {"retrain/a/1/old": old, "retrain/a/1/sub/old": old, "retrain/a/2/old": old, "retrain/a/2/sub/new": None}
    for name, age in {**ages, "locks/old": old}.items():
        path = versions / ".scratch" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("12345")
        if age is not None:
            os.utime(path, (age, age))
    said = collect(versions, keep=Keep.COMMITS, scratch_days=14, sharers=[], dry_run=False)
    assert said.scratch == ((".scratch/retrain/a/1", 10),)
    left = {str(path.relative_to(versions / ".scratch")) for path in (versions / ".scratch").rglob("*/*")}
    assert not (versions / ".scratch/retrain/a/1").exists()
    assert {"retrain/a/2/old", "retrain/a/2/sub/new", "locks/old"} <= left


def test_a_shared_cache_is_not_collected_for_one_clone(tmp_path: Path, new_project: NewProject) -> None:
    """Where the cache lies outside the project, others may need its objects: without their names nothing is removed."""
    root = new_project(tmp_path / "project", PIPELINE)
    (root / ".dvc/config.local").write_text(f"[cache]\n    dir = {tmp_path / 'cache'}\n")
    with pytest.raises(BadInputError, match="lies outside"):
        collect(root, keep=Keep.TAGS, scratch_days=14, sharers=[], dry_run=False)


def test_garbage_is_not_collected_beside_a_flow(versions: Path) -> None:
    """While a flow is at work, whose new objects no lock file names yet, nothing is collected."""
    with held(versions), pytest.raises(ProjectBusyError, match="pid"):
        collect(versions, keep=Keep.TAGS, scratch_days=14, sharers=[], dry_run=False)


def test_every_deployment_has_its_times_its_limit_and_a_form(project: Path) -> None:
    """Each of prefect.yaml has a cron with a time zone, one run at a time, and a form: parameters with type and description."""
    from prefect.flows import load_flow_from_entrypoint
    from prefect.utilities.callables import parameter_schema

    deployments = {deployment.name: deployment for deployment in read_deployments(project)}
    assert {"reproduce", "nightly-audit", "collect-garbage"} <= {
        name for name, item in deployments.items() if item.active
    }
    assert {deployment.work_pool.name for deployment in deployments.values()} == {"cpu", "gpu"}
    for deployment in deployments.values():
        assert deployment.schedules
        for schedule in deployment.schedules:
            assert len(schedule.cron.split()) == 5
            assert schedule.timezone in available_timezones()
        assert deployment.concurrency_limit.limit == 1
        assert deployment.concurrency_limit.collision_strategy == "CANCEL_NEW"
        flow = load_flow_from_entrypoint(deployment.entrypoint)
        form = parameter_schema(flow).model_dump()["properties"]
        assert set(form) == set(deployment.parameters)
        for field in form.values():
            assert field["description"]
            assert {"type", "anyOf", "$ref", "allOf"} & set(field)
        flow.validate_parameters(deployment.parameters)


def test_a_misspelt_deployment_is_refused(tmp_path: Path) -> None:
    """An unknown key in prefect.yaml is named, and not ignored as Prefect would."""
    (tmp_path / "prefect.yaml").write_text("deployments: [{name: x, croon: '* * * * *'}]")
    with pytest.raises(BadInputError, match="croon"):
        read_deployments(tmp_path)
