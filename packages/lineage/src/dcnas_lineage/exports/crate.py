"""
The metadata of a Workflow Run RO-Crate: ro-crate-metadata.json as JSON-LD.

RO-Crate 1.1; profiles Process, Workflow and Provenance Run Crate 0.5 and Workflow RO-Crate 1.0. dvc.yaml is the workflow; an entry of
its `stages` a HowToStep; the module that it runs the tool; one run, of one item of a matrix, a CreateAction with its ControlAction; the
engine's OrganizeAction ties them together. Keys of params.yaml are FormalParameters, their values PropertyValues.

Source: https://w3id.org/ro/wfrun/provenance/0.5 and the profiles that it extends.
"""

from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

from dcnas_lineage.exports.entities import Graph, Reference, checksums, encoding, many, relative
from dcnas_lineage.exports.parts import Parts, single_files, slot_id
from dcnas_lineage.exports.state import WORKFLOW, ProjectState, Step, upstream_first, utc
from dcnas_schema.run_record import HashedFile, RunRecord, record_path

METADATA, PREVIEW, README = "ro-crate-metadata.json", "ro-crate-preview.html", "README.md"
_RUN_TERMS = "https://w3id.org/ro/terms/workflow-run#"
CONTEXT: list[Any] = [
    "https://w3id.org/ro/crate/1.1/context",
    {  # the few terms that are used beyond RO-Crate 1.1, spelt out, so that a reader needs one context only
        "environment": f"{_RUN_TERMS}environment",
        "resourceUsage": f"{_RUN_TERMS}resourceUsage",
        "buildInstructions": "https://codemeta.github.io/terms/buildInstructions",
        "sha256": "http://schema.org/sha256",
    },
]
PROFILES = (
    ("https://w3id.org/ro/wfrun/process/0.5", "Process Run Crate", "0.5"),
    ("https://w3id.org/ro/wfrun/workflow/0.5", "Workflow Run Crate", "0.5"),
    ("https://w3id.org/ro/wfrun/provenance/0.5", "Provenance Run Crate", "0.5"),
    ("https://w3id.org/workflowhub/workflow-ro-crate/1.0", "Workflow RO-Crate", "1.0"),
)
ENGINE = "https://dvc.org/"


def crate_metadata(state: ProjectState, included: dict[str, HashedFile]) -> dict[str, Any]:
    """
    Return ro-crate-metadata.json.

    Args:
        included: Path -> file, of all that the crate holds beside its metadata and its page; other files are named by their hashes alone.
    """
    return {"@context": CONTEXT, "@graph": _Builder(state, included).entities()}


class _Builder:
    def __init__(self, state: ProjectState, included: dict[str, HashedFile]) -> None:
        self._state, self._included, self._graph = state, included, Graph()
        self._add, self._parts = self._graph.add, Parts(state, included, self._graph)

    def entities(self) -> list[dict[str, Any]]:
        state, add = self._state, self._add
        authors = [add(f"#{quote(name)}", "Organization", name=name) for name in state.about.authors]
        licence = self._licence()
        profiles = [add(url, "CreativeWork", name=name, version=version) for url, name, version in PROFILES]
        runs = [self._run(step, run) for step, run in upstream_first(state)]
        whole = self._workflow_run()
        self._workflow(authors, licence)
        organised = self._organised(whole, [control for _, control in runs])
        parts = [self._parts.file(file) for _, file in sorted(self._included.items())]
        for run in state.runs:
            self._graph[relative(record_path(run.stage))]["about"] = {"@id": _run_id(run)}
        if README in self._graph:
            self._graph[README]["about"] = {"@id": "./"}
        add(
            METADATA,
            "CreativeWork",
            about={"@id": "./"},
            conformsTo=[{"@id": "https://w3id.org/ro/crate/1.1"}, profiles[-1]],
        )
        add(PREVIEW, "CreativeWork", about={"@id": "./"}, name="This crate as a page", encodingFormat="text/html")
        add(
            "./",
            "Dataset",
            name=state.about.title,
            description=f"Tables, figures and pages of preset {state.preset} with the records of the {len(state.runs)} runs behind them: "
            "what each read, made and ran on. Files that are not in the crate are named by their SHA-256.",
            datePublished=state.ended.isoformat(),
            license=licence,
            author=many(authors),
            publisher=authors[0],
            conformsTo=profiles,
            mainEntity={"@id": WORKFLOW},
            hasPart=parts,
            mentions=[whole, organised, *(action for pair in runs for action in pair)],
        )
        return _metadata_first(self._graph.entities())

    def _licence(self) -> Reference | str:
        name = self._state.about.licence
        if name is None:
            return "CITATION.cff names no licence."
        return self._add(
            f"https://spdx.org/licenses/{name}", "CreativeWork", name=name, description="The crate's licence."
        )

    def _workflow(self, authors: list[Reference], licence: Reference | str) -> None:
        state = self._state
        parameters = [self._parts.parameter(key, value)[0] for key, value in state.params.items()]
        inputs = [{"@id": slot_id("input", file.path)} for file in single_files(state.given)]
        language = self._add(
            "#dvc-pipeline",
            "ComputerLanguage",
            name="DVC pipeline (dvc.yaml)",
            identifier=ENGINE,
            url="https://dvc.org/doc/user-guide/project-structure/dvcyaml-files",
        )
        file = self._included[WORKFLOW]
        self._add(
            WORKFLOW,
            ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"],
            name=f"{state.about.title}: the pipeline",
            version=state.about.version,
            url=state.about.address,
            author=many(authors),
            license=licence,
            conformsTo={"@id": "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"},
            programmingLanguage=language,
            encodingFormat=encoding(WORKFLOW),
            input=many([*parameters, *inputs]),
            output=many({"@id": slot_id("output", file.path)} for file in state.results),
            step=many(self._step(step) for step in state.steps),
            hasPart=many(self._tool(step) for step in state.steps),
            buildInstructions=self._parts.requirements(),
            **checksums(sha256=file.sha256, md5=file.md5, size=file.size),
        )

    def _step(self, step: Step) -> Reference:
        return self._add(
            f"{WORKFLOW}#{quote(step.name)}",
            "HowToStep",
            name=step.name,
            description=step.description,
            position=None if step.position is None else str(step.position),
            workExample=self._tool(step),
        )

    def _tool(self, step: Step) -> Reference:
        state = self._state
        same = [run for other in state.steps if other.tool == step.tool for run in other.runs]
        packages = sorted({item for run in same for item in run.environment.versions.items()})
        pythons = sorted({run.environment.python for run in same})
        return self._add(
            f"#tool/{quote(step.tool)}",
            "SoftwareApplication",
            name=step.tool,
            description=f"python -m {step.tool}",
            softwareVersion=state.about.version,
            url=state.about.address,
            input=many(
                self._parts.parameter(key, value)[0] for run in same for key, value in sorted(run.params.items())
            ),
            softwareRequirements=many(
                [
                    *(
                        self._parts.software("Python", version, f"#python-{version}", url="https://www.python.org/")
                        for version in pythons
                    ),
                    *(self._parts.software(name, version, f"#package-{name}-{version}") for name, version in packages),
                ]
            ),
        )

    def _run(self, step: Step, run: RunRecord) -> tuple[Reference, Reference]:
        """Add a run with the step that asked for it; return both actions."""
        values = [self._parts.parameter(key, value)[1] for key, value in sorted(run.params.items())]
        seed = (
            [] if run.seed is None else [self._add(f"#seed/{run.seed}", "PropertyValue", name="seed", value=run.seed)]
        )
        action = self._add(
            _run_id(run),
            "CreateAction",
            name=f"Run of {run.stage}",
            description=f"{run.command} ({_code_of(run)})",
            instrument=self._tool(step),
            agent=self._parts.agent(run),
            startTime=utc(run.started).isoformat(),
            endTime=utc(run.ended).isoformat(),
            object=many([*self._read(run), *values, *seed, *self._parts.commit(run)]),
            result=many(self._parts.file(file) for file in run.files_made()),
            environment=many(self._parts.variable(*item) for item in sorted(run.machine.threads_environment.items())),
            resourceUsage=many(self._parts.usage(run)),
        )
        control = self._add(
            f"#control/{run.run_id}",
            "ControlAction",
            name=f"DVC asks for {run.stage}",
            instrument=self._step(step),
            object=action,
        )
        return action, control

    def _workflow_run(self) -> Reference:
        state = self._state
        values = [self._parts.parameter(key, value)[1] for key, value in state.params.items()]
        return self._add(
            "#workflow-run",
            "CreateAction",
            name=f"The pipeline at preset {state.preset}",
            description="dvc repro: from the first of the runs that the results rest on to the last; they may lie days and machines apart.",
            instrument={"@id": WORKFLOW},
            agent=many(self._parts.agent(run) for run in state.runs),
            startTime=state.started.isoformat(),
            endTime=state.ended.isoformat(),
            object=many([*(self._parts.given(dep) for dep in state.given), *values]),
            result=many(self._parts.file(file) for file in state.results),
        )

    def _organised(self, whole: Reference, controls: Iterable[Reference]) -> Reference:
        engine = self._add(
            ENGINE, "SoftwareApplication", name="DVC", url=ENGINE, softwareVersion=self._state.engine_version
        )
        return self._add(
            "#orchestration",
            "OrganizeAction",
            name="DVC runs the pipeline",
            instrument=engine,
            agent=many(self._parts.agent(run) for run in self._state.runs),
            startTime=self._state.started.isoformat(),
            endTime=self._state.ended.isoformat(),
            object=many(controls),
            result=whole,
        )

    def _read(self, run: RunRecord) -> Iterator[Reference]:
        """Yield what a run read: single files, folders that no run made as a whole."""
        for dep in run.deps:
            if any(file.path in self._state.made for file in dep.files):
                yield from (self._parts.file(file) for file in dep.files)
            else:
                yield self._parts.given(dep)


def _code_of(run: RunRecord) -> str:
    if run.git.commit is None:
        return "outside a git checkout"
    changed = (
        f", with changes in {', '.join(run.git.dirty)} (diff sha256 {run.git.diff_sha256})" if run.git.dirty else ""
    )
    return f"at commit {run.git.commit}{changed}"


def _run_id(run: RunRecord) -> str:
    return f"#run/{run.run_id}"


def _metadata_first(entities: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return entities with the descriptor, the crate and the workflow before all others, as people look for them there."""
    first = (METADATA, "./", WORKFLOW, PREVIEW)
    return sorted(entities, key=lambda entity: first.index(entity["@id"]) if entity["@id"] in first else len(first))
