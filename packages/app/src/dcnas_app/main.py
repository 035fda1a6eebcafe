"""
The dcnas command.

Run:    dcnas --help
Takes:  the project's folder (the current one, or one above it)
Expect: exit 0, or the code of the error's class with one clear message
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from dcnas_harness.errors import BadInputError
from dcnas_harness.files import require_writable
from dcnas_schema.params import load_params

app = typer.Typer(
    help="Networks for edge cameras that denoise and classify a noisy image jointly within a latency budget.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
flow_app = typer.Typer(help="The Prefect flows over the DVC graph.", no_args_is_help=True)
app.add_typer(flow_app, name="flow")
export_app = typer.Typer(
    help="What is known of the runs, in the formats of others; all are refused where a file is not the one that its run made.",
    no_args_is_help=True,
)
app.add_typer(export_app, name="export")
Out = Annotated[Path, typer.Option("--out", dir_okay=False, help="The file to write.")]
Sign = Annotated[
    Path | None,
    typer.Option("--sign", metavar="KEY", help="Key of ssh (ssh-keygen -Y sign); the signature goes to FILE.sig."),
]


def project_root() -> Path:
    """
    Return the folder that holds dvc.yaml: the current one or the nearest above it.

    Raises:
        BadInputError: There is none.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file() and (folder / "presets").is_dir():
            return folder
    raise BadInputError(
        f"{here} is not inside a dcnas project: no dvc.yaml with presets/ here or above.", remedy="cd into the clone"
    )


@app.command()
def params() -> None:
    """Check params.yaml and that results/ can be written, and say what is asked for."""
    from dcnas_app.presets import require_known_preset

    root = project_root()
    checked = load_params(root / "params.yaml")
    changed = " with changes" if require_known_preset(root, checked.preset) else ""
    require_writable(root / "results")
    models, seeds = checked.runs.models, checked.runs.seeds
    print(f"params.yaml is valid: preset {checked.preset}{changed}, {len(models)} models x {len(seeds)} seeds")


@app.command()
def preset(
    name: Annotated[str, typer.Argument(help="A file of presets/ without its suffix.")],
    force: Annotated[
        bool, typer.Option("--force", help="Also when params.yaml has changes that no preset holds.")
    ] = False,
) -> None:
    """Replace params.yaml by a stored preset."""
    from dcnas_app.presets import apply_preset

    apply_preset(project_root(), name, force=force)


@app.command()
def audit(
    table: Annotated[
        str | None,
        typer.Argument(help="A table without its suffix, such as results/table_1; with --all and none: everything."),
    ] = None,
    cell: Annotated[
        str | None, typer.Option("--cell", help="'ROW,COLUMN', such as 'DC-Net reduced integrated,PSNR'.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Audit every cell.")] = False,
    rev: Annotated[str | None, typer.Option("--rev", help="As it was at a commit, tag or branch.")] = None,
    remote: Annotated[bool, typer.Option("--remote", help="Hash the objects on DVC's remote too.")] = False,
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Make the tables again in a fresh checkout, and compare.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    page: Annotated[Path | None, typer.Option("--html", help="Write a page too.")] = None,
) -> None:
    """
    Walk from printed numbers to their data, hash every file again, and name the first edge that does not hold.

    Exit 0 where all hold, 10 where the worst is STALE, 11 UNVERIFIABLE, 12 BROKEN.
    """
    from dcnas_app import auditing

    if (cell is None) != every or (table is None and not every):
        raise BadInputError("Either TABLE --cell 'ROW,COLUMN', TABLE --all or --all is needed.")
    question = auditing.Question(table=table, cell=cell, revision=rev, remote=remote, rerun=rerun)
    answer = auditing.audit(project_root(), question)
    if page is not None:
        auditing.write_html(answer, page)
    if as_json:
        print(auditing.as_json(answer))
    else:
        auditing.print_answer(answer, tree=cell is not None)
    sys.exit(answer.verdict.exit_code)


@app.command()
def verify() -> None:
    """Hash every output of dvc.lock again, in the workspace and in the cache, and name each file that is damaged or missing (exit 4)."""
    from dcnas_app.verifying import verify as verify_project

    verify_project(project_root())


@app.command()
def device() -> None:
    """Write data/device.json: which machine this is and which profile params.yaml names; the pipeline measures anew where it changes."""
    path = _write_identity(project_root())
    if path is not None:
        print(f"{path} is now of this machine")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def profile(context: typer.Context) -> None:
    """Measure the latency profile of this device, show one, or compare two: dcnas profile --help."""
    from dcnas_app.profiling import run

    run(context.args)


@app.command()
def publish() -> None:
    """Copy results/ with what its audit needs to results/published/<preset>-<device>/, which is committed."""
    from dcnas_app.publishing import publish_results

    publish_results(project_root())


@app.command()
def readme(
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether it is up to date (exit 1 when not).")
    ] = False,
) -> None:
    """Write the generated parts of README.md from the published results."""
    from dcnas_app.publishing import update_readme

    if not update_readme(project_root(), check=check):
        sys.exit(1)


@app.command()
def prune() -> None:
    """Remove outputs in data/ of models and seeds that params.yaml no longer runs; the DVC cache keeps them."""
    from dcnas_app.presets import prune_outputs

    prune_outputs(project_root())


@flow_app.command("run")
def flow_run(
    targets: Annotated[list[str] | None, typer.Argument(help="Pipeline stages; all when none is named.")] = None,
    no_prefect: Annotated[bool, typer.Option("--no-prefect", help="The same engine without Prefect.")] = False,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Most cores that stages take together; all without it.")
    ] = None,
    remote_pool: Annotated[
        str | None,
        typer.Option("--remote-pool", metavar="POOL", help="Trainings run at the workers of this work pool."),
    ] = None,
    allow_dirty: Annotated[
        bool,
        typer.Option(
            "--allow-dirty", help="With --remote-pool: though files differ from the commit, which workers run."
        ),
    ] = False,
    device_file: Annotated[
        Path | None,
        typer.Option(
            "--device", metavar="FILE", help="With --remote-pool: all that times is of this machine's data/device.json."
        ),
    ] = None,
) -> None:
    """Run the stale pipeline stages side by side, as a Prefect flow; the result is what `dvc repro` gives."""
    root = project_root()
    params()
    if remote_pool is None and (allow_dirty or device_file is not None):
        raise BadInputError(
            "--allow-dirty and --device say how other machines are used.", remedy="name their --remote-pool"
        )
    if device_file is None:
        _write_identity(root)
    else:
        _take_identity(root, device_file)
    from dcnas_flows.orders import Sharing
    from dcnas_flows.reproduce import reproduce

    sharing = remote_pool and Sharing(
        pool=remote_pool, allow_dirty=allow_dirty, device_elsewhere=device_file is not None
    )
    sys.exit(reproduce(root, targets or [], use_prefect=not no_prefect, jobs=jobs, sharing=sharing or None))


@flow_app.command("worker")
def flow_worker(
    pool: Annotated[str, typer.Argument(help="The Prefect work pool that home names as --remote-pool.")],
    queues: Annotated[
        list[str] | None,
        typer.Option("--queue", help="A queue to serve instead of this machine's own; may be repeated."),
    ] = None,
) -> None:
    """Run pipeline stages for a flow on another machine, one at a time, in this clone's .scratch/worker, until stopped."""
    root = project_root()
    _write_identity(root)
    from dcnas_flows.pool import serve

    serve(root, pool, queues or None)


def _take_identity(root: Path, file: Path) -> None:
    """Say that the latencies of this reproduction are of another machine, whose own data/device.json `file` is."""
    from dcnas_harness.files import atomic_write

    target = root / "data/device.json"
    if not file.is_file():
        raise BadInputError(f"{file} does not exist.", remedy="copy data/device.json of that machine here")
    if not target.is_file() or target.read_bytes() != file.read_bytes():
        with atomic_write(target) as temporary:
            temporary.write_bytes(file.read_bytes())


@flow_app.command("serve")
def flow_serve() -> None:
    """Run the deployments of prefect.yaml on this machine at their times, until stopped; starts Prefect's server where none runs."""
    from dcnas_flows.deployments import serve

    serve(project_root())


@export_app.command("rocrate")
def export_rocrate(
    out: Out,
    sign: Sign = None,
    with_data: Annotated[
        bool, typer.Option("--with-data", help="Put in scenes, weights and logs too, not only their hashes.")
    ] = False,
) -> None:
    """Workflow Run RO-Crate (Provenance Run Crate profile): one zip with results and records that opens as a page."""
    from dcnas_app.exporting import export

    export(project_root(), "rocrate", out, key=sign, with_data=with_data)


@export_app.command("intoto")
def export_intoto(out: Out, sign: Sign = None) -> None:
    """In-toto statement with SLSA provenance: the SHA-256 of every result, what it was made of, and by which runs."""
    from dcnas_app.exporting import export

    export(project_root(), "intoto", out, key=sign, with_data=False)


@export_app.command("prov")
def export_prov(out: Out, sign: Sign = None) -> None:
    """PROV-JSON: files, runs, accounts and what ties them together."""
    from dcnas_app.exporting import export

    export(project_root(), "prov", out, key=sign, with_data=False)


@export_app.command("verify")
def export_verify(
    file: Annotated[Path, typer.Argument(help="An in-toto statement or a crate; its signature lies in FILE.sig.")],
    allowed_signers: Annotated[
        Path, typer.Option("--allowed-signers", metavar="F", help="Who may sign: a list as in ssh-keygen(1).")
    ],
    results: Annotated[
        Path | None,
        typer.Option(
            "--results", file_okay=False, help="A copy of results/ to check, such as a folder of results/published."
        ),
    ] = None,
) -> None:
    """Verify a signature, and hash again what the export names: results here, or the files in a crate (exit 4 where one does not hold)."""
    from dcnas_app.exporting import verify_export

    verify_export(file, allowed_signers, results=results, find_root=project_root)


def _write_identity(root: Path) -> Path | None:
    """Write which machine this is, with the SHA-256 of the profile that params.yaml names; return the file where it changed."""
    from dcnas_latency.identity import write_identity

    path = root / "data/device.json"
    named = load_params(root / "params.yaml").profile_latency.named_file
    return path if write_identity(path, profile=named, root=root) else None
