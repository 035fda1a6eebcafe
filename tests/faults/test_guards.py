"""What no line of code may do: write past `atomic_write`, read a pickle, run text as code, take a duration from the wall clock."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

WRITERS_ALLOWED = {
    "packages/harness/src/dcnas_harness/files.py": "atomic_write itself",
    "packages/harness/src/dcnas_harness/process.py": "the lock file, which the kernel guards and nobody reads as data",
    "packages/latency/src/dcnas_latency/lock.py": "the device's lock file, in which the holders' pids stand for a message alone",
    "packages/schema/src/dcnas_schema/seal.py": "the seal, put into the temporary file of atomic_write before it gets its name",
    "packages/flows/src/dcnas_flows/alive.py": "a lock file that is renamed when it is locked; it tells who lives, and is no artefact",
    "packages/flows/src/dcnas_flows/machines.py": "DVC's settings in a worker's own checkout, whose mode is set before DVC writes them",
    "packages/lineage/src/dcnas_lineage/revision.py": "a checkout in a temporary folder, for an audit to look at",
    "packages/app/src/dcnas_app/publishing.py": "copies into a temporary folder that is renamed as a whole",
}
"""File -> why it writes without atomic_write."""
METHODS = {"write_text", "write_bytes", "touch", "hardlink_to", "symlink_to", "savefig", "to_csv", "to_parquet"}
FUNCTIONS = {
    "open", "os.open", "io.open", "shutil.copy", "shutil.copy2", "shutil.copyfile", "shutil.copytree", "shutil.move", "save_file",
    "json.dump", "pq.write_table", "pq.ParquetWriter", "np.save", "np.savez", "torch.save", "Image.save", "onnx.save", "onnx.save_model",
}  # fmt: skip
SAFE_TARGETS = {"temporary", "buffer"}
"""What `atomic_write` yields, and a buffer in memory."""
CLOCKS_ALLOWED = {
    "packages/flows/src/dcnas_flows/garbage.py": "the age of files, whose times are the wall clock's too",
    "packages/lineage/src/dcnas_lineage/hashing.py": "the age of a file's last change, within one walk",
    "packages/lineage/src/dcnas_lineage/recording.py": "when a run began and ended, which its record tells and nothing reads as a duration",
}
CLOCKS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}


def sources(project: Path, *folders: str) -> Iterator[tuple[str, ast.AST]]:
    """Yield path and tree of every Python file below the folders."""
    for folder in folders:
        for path in sorted((project / folder).rglob("*.py")):
            yield path.relative_to(project).as_posix(), parsed(path)


@cache
def parsed(path: Path) -> ast.AST:
    """Return a file's syntax tree, made once for all tests."""
    return ast.parse(path.read_text(encoding="utf-8"))


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    """Yield every call with the dotted name of what is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def mode_of(call: ast.Call) -> str:
    """Return the mode with which a call of `open` opens a file; "?" where it is not written out."""
    method = isinstance(call.func, ast.Attribute)
    given = [keyword.value for keyword in call.keywords if keyword.arg == "mode"] or call.args[0 if method else 1 :]
    if not given:
        return "r"
    modes = [
        str(value.value) for value in given if isinstance(value, ast.Constant)
    ]  # a file system's takes the path first
    return modes[0] if modes else "?"


def writes(call: ast.Call, name: str) -> bool:
    """Whether a call writes a file that is neither the temporary one of `atomic_write` nor a buffer."""
    targets = {ast.unparse(value) for value in (*call.args, *(keyword.value for keyword in call.keywords))}
    if targets & SAFE_TARGETS:
        return False
    method = name.rsplit(".", 1)[-1]
    owner = name.rsplit(".", 1)[0]
    if method == "open" and name not in ("os.open", "Image.open", "PhotoStore.open", "archive.open"):
        return owner not in SAFE_TARGETS and bool(set(mode_of(call)) & set("wax+?"))
    if name in FUNCTIONS:
        return "O_RDONLY" not in " ".join(targets)
    return "." in name and method in METHODS and owner not in SAFE_TARGETS


def test_nothing_but_atomic_write_makes_a_file(project: Path) -> None:
    """No module opens a file for writing outside the harness, but for those named above with the reason."""
    found = {
        f"{path}:{call.lineno}: {name}": path
        for path, tree in sources(project, "packages", "stages")
        for call, name in calls(tree)
        if writes(call, name)
    }
    assert sorted(where for where, path in found.items() if path not in WRITERS_ALLOWED) == []
    assert set(found.values()) == set(WRITERS_ALLOWED), "an exception that is none any more"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('path.open("w")', True),
        ('path.open(mode="ab")', True),
        ("open(path, 'x')", True),
        ("path.open(flags)", True),
        ("path.write_text('')", True),
        ("shutil.copyfile(a, b)", True),
        ("os.open(path, os.O_CREAT)", True),
        ("pq.write_table(table, path)", True),
        ("figure.savefig(path)", True),
        ("path.open('rb')", False),
        ("path.open()", False),
        ("open(path)", False),
        ("os.open(path, os.O_RDONLY)", False),
        ("temporary.write_bytes(b'')", False),
        ("write_text(path, '')", False),
        ("shutil.copyfile(source, temporary)", False),
        ("figure.savefig(buffer, format='png')", False),
    ],
)
def test_the_search_for_writers_sees_them(line: str, expected: bool) -> None:
    """The test above would find each of these lines, and none of the harmless ones."""
    ((call, name),) = [found for found in calls(ast.parse(line)) if found[1] != "x"]
    assert writes(call, name) is expected


def test_no_file_is_run_as_code(project: Path) -> None:
    """Beside the loaders of pickles (tests/training): no `eval`, no `exec`, no YAML that makes objects, nowhere weights_only=False."""
    found = []
    for path, tree in sources(project, "packages", "stages", "benchmarks"):
        for call, name in calls(tree):
            said = {(keyword.arg, ast.unparse(keyword.value)) for keyword in call.keywords}
            bad = (
                name in {"eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load"}
                or said & {("allow_pickle", "True"), ("weights_only", "False"), ("typ", "'unsafe'")}
                or (name == "YAML" and ("typ", "'safe'") not in said)
                or name in {"torch.load", "pickle.load", "pickle.loads", "np.load", "joblib.load", "torch.jit.load"}
            )
            if bad:
                found.append(f"{path}:{call.lineno}: {name}")
    assert found == []


def test_no_duration_is_of_the_wall_clock(project: Path) -> None:
    """The wall clock can be set back: nobody asks for it but those named above, so that neither a duration nor an output holds it."""
    found = {
        f"{path}:{call.lineno}: {name}": path
        for path, tree in sources(project, "packages", "stages")
        for call, name in calls(tree)
        if ".".join(name.split(".")[-2:]) in CLOCKS
    }
    assert sorted(where for where, path in found.items() if path not in CLOCKS_ALLOWED) == []
    assert set(found.values()) == set(CLOCKS_ALLOWED), "an exception that is none any more"
