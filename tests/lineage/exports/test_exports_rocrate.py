"""The crate: read back by ro-crate-py, held against the profiles, the same bytes each time."""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rocrate
from rocrate.rocrate import ROCrate
from typer.testing import CliRunner

from dcnas_app.main import app
from dcnas_harness.errors import CorruptArtefactError
from dcnas_lineage.exports.rocrate import check_crate, write_rocrate
from dcnas_lineage.exports.signing import sign
from dcnas_lineage.exports.state import ProjectState, load_state

Entities = dict[str, dict[str, Any]]
CONTEXT_1_1 = "https://w3id.org/ro/crate/1.1/context"
WORKFLOW_TYPES = {"File", "SoftwareSourceCode", "ComputationalWorkflow"}
TOOL_TYPES = {"SoftwareApplication", "SoftwareSourceCode", "ComputationalWorkflow"}


@pytest.fixture(scope="module")
def crate(ran_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The crate of the untouched project."""
    return write_rocrate(load_state(ran_project), tmp_path_factory.mktemp("crate") / "crate.zip")


@pytest.fixture(scope="module")
def graph(crate: Path) -> Entities:
    """@id -> entity."""
    return _graph(json.loads(_member(crate, "ro-crate-metadata.json")))


def test_ro_crate_py_reads_it_back(crate: Path, tmp_path: Path) -> None:
    """The format's own library finds the workflow, the profiles and every file, and writes the crate again."""
    read = ROCrate(str(crate))
    assert read.mainEntity.id == "dvc.yaml"
    assert {profile.id for profile in read.root_dataset["conformsTo"]} >= {
        "https://w3id.org/ro/wfrun/process/0.5",
        "https://w3id.org/ro/wfrun/workflow/0.5",
        "https://w3id.org/ro/wfrun/provenance/0.5",
        "https://w3id.org/workflowhub/workflow-ro-crate/1.0",
    }
    inside = {entity.id for entity in read.data_entities if not entity.id.startswith("#")}
    assert {"results/table_1.md", "results/figures/curve_dark.svg", "data/runs/train/b%20c.json"} <= inside
    read.write(str(tmp_path / "again"))
    assert (tmp_path / "again/results/table_1.md").read_bytes() == _member(crate, "results/table_1.md")


def test_every_run_is_an_action_with_all_that_is_known_of_it(graph: Entities, state: ProjectState) -> None:
    """Tool, step, files and parameters read, files made, times, account, machine, commit, and the record beside it."""
    run = state.runs[1]
    action = graph[f"#run/{run.run_id}"]
    read, made = _ids(action["object"]), _ids(action["result"])
    assert action["instrument"]["@id"] == "#tool/dcnas_train"
    assert graph[f"#control/{run.run_id}"]["instrument"]["@id"] == "dvc.yaml#train"
    assert {"#data/generate/numbers.json", "#code/src/", "#value/rate", "#value/loud", "#seed/3"} <= read
    assert f"#commit/{run.git.commit}" in read
    assert made == {"data/train/a/weights.bin"}
    assert (graph["#value/rate"]["value"], graph["#value/loud"]["value"]) == (0.5, False)
    assert graph["#parameter/loud"]["additionalType"] == "Boolean"
    assert json.loads(graph["#value/generate"]["value"]) == {"size": 3, "seed": 7}
    assert action["startTime"] <= action["endTime"]
    assert graph[action["agent"]["@id"]]["name"] == run.machine.user
    assert {graph[usage]["name"] for usage in _ids(action["resourceUsage"])} == {"wall time (s)", "device"}
    assert graph["data/runs/train/a.json"]["about"] == {"@id": action["@id"]}


def test_engine_and_environment_are_named(graph: Entities) -> None:
    """DVC in the version of the environment's lock, which is how the environment is built."""
    assert graph[graph["#orchestration"]["instrument"]["@id"]]["softwareVersion"] == "3.67.1"
    assert graph["dvc.yaml"]["buildInstructions"] == {"@id": "requirements.lock"}


def test_another_environment_than_the_runs_had_is_not_passed_off_as_theirs(project: Path, tmp_path: Path) -> None:
    """With a newer requirements.lock the crate says neither how the environment is built nor which DVC ran."""
    (project / "requirements.lock").write_text("dvc==9.9.9\n")
    made = write_rocrate(load_state(project), tmp_path / "crate.zip")
    graph = _graph(json.loads(_member(made, "ro-crate-metadata.json")))
    assert "buildInstructions" not in graph["dvc.yaml"]
    assert "softwareVersion" not in graph["https://dvc.org/"]


def _descriptor(graph: Entities) -> Iterator[bool]:
    yield graph["ro-crate-metadata.json"]["@type"] == "CreativeWork"
    yield graph["ro-crate-metadata.json"]["about"] == {"@id": "./"}
    yield "https://w3id.org/ro/crate/1.1" in _ids(graph["ro-crate-metadata.json"]["conformsTo"])


def _root(graph: Entities) -> Iterator[bool]:
    yield "Dataset" in _types(graph["./"])
    yield from (bool(graph["./"][key]) for key in ("name", "description", "datePublished", "license"))
    files = {name for name, entity in graph.items() if "File" in _types(entity) and not name.startswith("#")}
    yield files == _ids(graph["./"]["hasPart"])


def _workflow(graph: Entities) -> Iterator[bool]:
    main = graph[graph["./"]["mainEntity"]["@id"]]
    yield _types(main) >= WORKFLOW_TYPES | {"HowTo"}
    yield graph[main["programmingLanguage"]["@id"]]["@type"] == "ComputerLanguage"
    yield from (graph[name]["@type"] == "FormalParameter" for name in _ids(main["input"]) | _ids(main["output"]))
    yield any(_ids(action["instrument"]) == {main["@id"]} for action in _of(graph, "CreateAction"))


def _tools(graph: Entities) -> Iterator[bool]:
    instruments = {action["instrument"]["@id"] for action in _of(graph, "CreateAction")}
    for tool in _ids(graph["dvc.yaml"]["hasPart"]):
        yield bool(_types(graph[tool]) & TOOL_TYPES)
        yield tool in instruments


def _steps(graph: Entities) -> Iterator[bool]:
    yield {step["@id"] for step in _of(graph, "HowToStep")} == _ids(graph["dvc.yaml"]["step"])
    yield from (bool(_types(graph[step["workExample"]["@id"]]) & TOOL_TYPES) for step in _of(graph, "HowToStep"))
    positions = {step["@id"]: int(step["position"]) for step in _of(graph, "HowToStep")}
    yield positions["dvc.yaml#generate"] < positions["dvc.yaml#train"] < positions["dvc.yaml#tabulate"]


def _actions(graph: Entities) -> Iterator[bool]:
    for action in _of(graph, "CreateAction"):
        yield bool(_types(graph[action["instrument"]["@id"]]) & TOOL_TYPES)
    for control in _of(graph, "ControlAction"):
        yield graph[control["instrument"]["@id"]]["@type"] == "HowToStep"
        yield all(graph[name]["@type"] == "CreateAction" for name in _ids(control["object"]))
    (organised,) = _of(graph, "OrganizeAction")
    yield bool(_types(graph[organised["instrument"]["@id"]]) & TOOL_TYPES)
    yield _ids(organised["object"]) == {control["@id"] for control in _of(graph, "ControlAction")}
    yield graph[organised["result"]["@id"]]["instrument"]["@id"] == "dvc.yaml"


def _parameters(graph: Entities) -> Iterator[bool]:
    yield from (bool(slot["additionalType"]) for slot in _of(graph, "FormalParameter"))
    usages = {name for action in _of(graph, "CreateAction") for name in _ids(action.get("resourceUsage", []))}
    yield from (bool(graph[name]["propertyID"]) for name in usages)


def _references(graph: Entities) -> Iterator[bool]:
    known = {*graph, "https://w3id.org/ro/crate/1.1"}
    for entity in graph.values():
        for key, value in entity.items():
            if key == "conformsTo":
                continue  # of what a schema says, not of this crate
            for one in value if isinstance(value, list) else [value]:
                yield not isinstance(one, dict) or one["@id"] in known


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(_descriptor, id="RO-Crate 1.1, RO-Crate Metadata File Descriptor"),
        pytest.param(_root, id="RO-Crate 1.1, Root Data Entity and Data Entities"),
        pytest.param(_workflow, id="Workflow Run Crate 0.5 and Workflow RO-Crate 1.0, main workflow"),
        pytest.param(_tools, id="Provenance Run Crate 0.5, ComputationalWorkflow hasPart"),
        pytest.param(_steps, id="Provenance Run Crate 0.5, HowToStep"),
        pytest.param(
            _actions, id="Process Run Crate 0.5, CreateAction; Provenance Run Crate 0.5, Control- and OrganizeAction"
        ),
        pytest.param(
            _parameters, id="Workflow Run Crate 0.5, FormalParameter; Provenance Run Crate 0.5, resource usage"
        ),
        pytest.param(_references, id="JSON-LD, no pointer into nothing"),
    ],
)
def test_what_the_profiles_say_must_be_is(rule: Callable[[Entities], Iterator[bool]], graph: Entities) -> None:
    """Each MUST of the named part of a profile, written down here from its text."""
    assert [*rule(graph)].count(False) == 0


@pytest.fixture
def validated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """The validator of the profiles' working group, its cache filled with the context that ro-crate-py carries, without a network."""
    pytest.importorskip(
        "rocrate_validator", reason="roc-validator is not installed; its pin of rich < 14 has to be overridden"
    )
    import requests
    from requests.adapters import BaseAdapter
    from requests_cache import CachedSession
    from rocrate_validator import models, services
    from urllib3 import HTTPResponse

    context = (Path(rocrate.__file__).parent / "data/ro-crate.jsonld").read_bytes()
    assert json.loads(context)["@id"] == CONTEXT_1_1, "ro-crate-py up to 0.15 carries the context of RO-Crate 1.1"

    class Carried(BaseAdapter):
        def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
            answer = requests.Response()
            answer.status_code, answer.url, answer.request = 200, str(request.url), request
            answer.headers["Content-Type"] = "application/ld+json"
            answer.raw = HTTPResponse(
                io.BytesIO(context), headers=dict(answer.headers), status=200, preload_content=False
            )
            return answer

        def close(self) -> None:
            pass

    cache = tmp_path / "cache"
    with CachedSession(str(cache), backend="sqlite", expire_after=-1) as session:
        session.mount("https://w3id.org", Carried())
        session.get(CONTEXT_1_1)
    monkeypatch.setenv("HOME", str(tmp_path))

    def problems(path: Path, *, inherited: bool = True) -> list[str]:
        settings = services.ValidationSettings(
            rocrate_uri=str(path),
            profile_identifier="provenance-run-crate-0.5",
            offline=True,
            cache_path=cache,
            requirement_severity=models.Severity.REQUIRED,
            enable_profile_inheritance=inherited,
        )
        return [str(issue.message) for issue in services.validate(settings).get_issues()]

    return problems


@pytest.mark.filterwarnings("ignore")  # of the validator's own libraries
def test_the_profiles_own_validator_finds_nothing(crate: Path, validated: Callable[..., list[str]]) -> None:
    """roc-validator, at Provenance Run Crate 0.5 and all that it inherits, offline: no MUST is violated."""
    assert validated(crate) == []


@pytest.mark.filterwarnings("ignore")  # of the validator's own libraries
def test_the_profiles_own_validator_sees_a_broken_crate(
    crate: Path, validated: Callable[..., list[str]], tmp_path: Path
) -> None:
    """The check above can fail: a control action that names no step is found, by the profile's own rules alone to save time."""
    broken = tmp_path / "broken"
    with zipfile.ZipFile(crate) as archive:
        archive.extractall(broken)
    metadata = json.loads((broken / "ro-crate-metadata.json").read_bytes())
    next(entity for entity in metadata["@graph"] if entity["@type"] == "ControlAction").pop("instrument")
    (broken / "ro-crate-metadata.json").write_text(json.dumps(metadata))
    (found,) = validated(broken, inherited=False)
    assert "ControlAction must reference a HowToStep" in found


def test_files_are_what_their_hashes_say(crate: Path, graph: Entities) -> None:
    """Each file inside has the SHA-256 and size that the metadata gives; each that is not is named so, with its own."""
    with zipfile.ZipFile(crate) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    files = {name: entity for name, entity in graph.items() if "File" in _types(entity)}
    inside = {name.replace("%20", " "): entity for name, entity in files.items() if not name.startswith("#")}
    assert set(members) == set(inside) | {"ro-crate-metadata.json", "ro-crate-preview.html"}
    for name, entity in inside.items():
        assert (hashlib.sha256(members[name]).hexdigest(), str(len(members[name]))) == (
            entity["sha256"],
            entity["contentSize"],
        )
    assert set(files) - set(_ids(graph["./"]["hasPart"])) == {
        "#data/generate/numbers.json",
        "#data/given.csv",
        "#data/train/b%20c/weights.bin",
    }


def test_data_can_be_put_in(state: ProjectState, tmp_path: Path) -> None:
    """Without the option large files are hashes, but for those that cells are derived from; with it all that runs made is inside."""
    with zipfile.ZipFile(write_rocrate(state, tmp_path / "crate.zip", with_data=True)) as archive:
        assert {"data/generate/numbers.json", "data/train/a/weights.bin", "data/train/b c/weights.bin"} <= {
            *archive.namelist()
        }


def test_the_same_state_gives_the_same_bytes(crate: Path, project: Path, tmp_path: Path) -> None:
    """In another folder, with other times of change: byte for byte the same zip."""
    for number, path in enumerate(sorted(project.rglob("*"))):
        os.utime(path, (1e9 + number, 1e9 + number))
    again = write_rocrate(load_state(project), tmp_path / "again.zip")
    assert again.read_bytes() == crate.read_bytes()


@pytest.mark.parametrize("harm", ["edited", "gone"])
@pytest.mark.parametrize("path", ["results/table_1.md", "results/table_1.cells.json", "data/train/a/weights.bin"])
def test_a_file_that_its_run_did_not_make_stops_the_export(project: Path, tmp_path: Path, path: str, harm: str) -> None:
    """An edited result, a source of its cells that is gone: a corrupt artefact, and no crate is left behind."""
    state = load_state(project)
    (project / path).unlink()
    if harm == "edited":
        (project / path).write_text("b")
    with pytest.raises(CorruptArtefactError, match=path):
        write_rocrate(state, tmp_path / "out/crate.zip")
    assert [*tmp_path.glob("out/*")] == []


def test_a_signed_crate_is_verified_and_a_repacked_one_is_not(
    project: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command checks the signature first, then each file in the zip; one that was swapped is named even where it was signed anew."""
    monkeypatch.chdir(project)
    verified = ("export", "verify", "crate.zip", "--allowed-signers", str(keys / "allowed"))
    made = CliRunner().invoke(app, ["export", "rocrate", "--out", "crate.zip", "--sign", str(keys / "ours")])
    assert made.exception is None, made.output
    done = CliRunner().invoke(app, verified)
    assert "signed by maintainer@example.org" in done.output
    with zipfile.ZipFile("crate.zip") as old, zipfile.ZipFile("new.zip", "w") as new:
        for name in old.namelist():
            new.writestr(name, b"a,34.67\n" if name == "results/table_1.csv" else old.read(name))
    Path("new.zip").replace("crate.zip")
    assert "does not hold" in str(CliRunner().invoke(app, verified).exception)
    sign(Path("crate.zip"), keys / "ours")
    assert "the first results/table_1.csv" in str(CliRunner().invoke(app, verified).exception)


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + bytes(18), b"no zip"])
def test_what_is_no_crate_is_refused(tmp_path: Path, content: bytes) -> None:
    """An empty file, an empty zip, a text: a corrupt artefact with a message, no crash."""
    (tmp_path / "crate.zip").write_bytes(content)
    with pytest.raises(CorruptArtefactError, match="no crate"):
        check_crate(tmp_path / "crate.zip")


def _graph(metadata: dict[str, Any]) -> Entities:
    entities = metadata["@graph"]
    assert len({entity["@id"] for entity in entities}) == len(entities), "no @id stands twice"
    return {entity["@id"]: entity for entity in entities}


def _member(crate: Path, name: str) -> bytes:
    with zipfile.ZipFile(crate) as archive:
        return archive.read(name)


def _ids(value: Any) -> set[str]:
    return {one["@id"] for one in (value if isinstance(value, list) else [value])}


def _types(entity: dict[str, Any]) -> set[str]:
    kind = entity["@type"]
    return set(kind) if isinstance(kind, list) else {kind}


def _of(graph: Entities, kind: str) -> list[dict[str, Any]]:
    return [entity for entity in graph.values() if kind in _types(entity)]
