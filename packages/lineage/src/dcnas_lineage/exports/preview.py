"""ro-crate-preview.html: a crate as a page that a browser opens from the unpacked zip, with nothing but what lies beside it."""

import html
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from dcnas_lineage.exports.crate import METADATA, PROFILES
from dcnas_lineage.exports.entities import relative
from dcnas_lineage.exports.markdown import rendered
from dcnas_lineage.exports.parts import device_of
from dcnas_lineage.exports.preview_style import STYLE
from dcnas_lineage.exports.state import RESULTS, WORKFLOW, ProjectState, Step, step_name, utc
from dcnas_schema.run_record import HashedFile, HashedPath, RunRecord, record_path

_SECTIONS = ("tables", "figures", "steps", "runs", "parameters", "files")
_IMAGES = (".svg", ".png")
_FORM = re.compile(r"(_light|_dark)?\.\w+$")
"""What tells the forms of one figure from each other."""
_MAP = ".figure.json"
"""The end of the name of the file that says which series a figure shows, and what they were drawn from."""
_PREFIXES = ("B", "kB", "MB", "GB", "TB")


def preview_page(state: ProjectState, included: Mapping[str, HashedFile]) -> str:
    """
    Return the page.

    Args:
        included: Path -> file, of all that the crate holds beside its metadata and this page.
    """
    sections = {
        "tables": _tables(state),
        "figures": _figures(state),
        "steps": _steps(state),
        "runs": "".join(_run(state, run, included) for run in state.runs),
        "parameters": _pairs((key, f"<code>{_text(_json(value))}</code>") for key, value in state.params.items()),
        "files": _files(state, included),
    }
    links = "".join(f'<a href="#{name}">{name.capitalize()}</a>' for name in _SECTIONS if sections[name])
    body = "".join(
        f'<h2 id="{name}">{name.capitalize()}</h2>\n{sections[name]}\n' for name in _SECTIONS if sections[name]
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width">\n'
        f"<title>{_text(state.about.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"{_head(state, included)}\n<nav>{links}</nav>\n{body}</body>\n</html>\n"
    )


def _head(state: ProjectState, included: Mapping[str, HashedFile]) -> str:
    pages = [file.path for file in state.results if file.path.endswith(".html")]
    profiles = ", ".join(f'<a href="{url}">{name} {version}</a>' for url, name, version in PROFILES)
    commits = ", ".join(f"<code>{commit}</code>" for commit in state.commits) or "outside a git checkout"
    changed = sorted({path for run in state.runs for path in run.git.dirty or ()})
    warning = (
        f'<p class="warn">Runs had changes that no commit holds in: {_text(", ".join(changed))}.</p>' if changed else ""
    )
    pairs = [
        ("Preset", _text(state.preset)),
        ("Pages", ", ".join(_link(path) for path in pages) or "none"),
        ("Runs", f"{len(state.runs)}, {state.started:%Y-%m-%d %H:%M} to {state.ended:%Y-%m-%d %H:%M} UTC"),
        ("Code", commits),
        ("Ran on", "<br>".join(_text(device) for device in sorted({device_of(run) for run in state.runs}))),
        ("Version, licence", f"{_text(state.about.version)}, {_text(state.about.licence or 'no licence')}"),
        ("By", _text(", ".join(state.about.authors))),
        ("For machines", f'<a href="{METADATA}">{METADATA}</a>: {profiles}'),
    ]
    return (
        f"<h1>{_text(state.about.title)}</h1>\n"
        f"<p>{len(state.results)} result files, the records of the runs behind them and what their numbers are derived from: "
        f"{len(included)} files. What is not in here is named by its SHA-256. The pipeline is {_link(WORKFLOW)}.</p>\n"
        f"{warning}{_pairs(pairs)}"
    )


def _tables(state: ProjectState) -> str:
    texts = [file for file in state.results if file.path.endswith(".md")]
    numbered_first = sorted(texts, key=lambda file: (not PurePosixPath(file.path).name.startswith("table"), file.path))
    return "".join(_table(state, file) for file in numbered_first)


def _table(state: ProjectState, file: HashedFile) -> str:
    """Return a file of tables with links to its other forms."""
    stem = file.path.removesuffix(".md")
    forms = [other.path for other in state.results if other.path.startswith(f"{stem}.")]
    links = " · ".join(_link(path, path.removeprefix(f"{stem}.")) for path in forms)
    title, content = rendered((state.root / file.path).read_text(encoding="utf-8", errors="replace"))
    return f'<h3>{_text(title or file.path)}</h3><p class="note">{links}</p>{content}\n'


def _figures(state: ProjectState) -> str:
    """Return the images of the results: one of its forms of each, in the reader's colours where there are two, with links to all forms."""
    forms: dict[str, list[str]] = {}
    for file in state.results:
        if file.path.endswith(_IMAGES):
            forms.setdefault(_FORM.sub("", file.path), []).append(file.path)
    maps = {path: path + _MAP for path in forms if path + _MAP in state.makers}
    figures = "".join(_figure(stem, paths, maps.get(stem)) for stem, paths in forms.items())
    return f'<div class="figures">{figures}</div>' if figures else ""


def _figure(stem: str, paths: list[str], series: str | None) -> str:
    drawn = [path for path in paths if path.endswith(".svg")] or paths
    dark = next((path for path in drawn if "_dark." in path), None)
    shown = next((path for path in drawn if "_dark." not in path), drawn[0])
    source = f'<source srcset="{relative(dark)}" media="(prefers-color-scheme: dark)">' if dark else ""
    name = PurePosixPath(stem).name.replace("_", " ")
    image = f'<picture>{source}<img src="{relative(shown)}" alt="{_text(name)}" loading="lazy"></picture>'
    links = " · ".join(_link(path, path.removeprefix(stem).lstrip("_.").replace("_", ".")) for path in paths)
    links += "" if series is None else f" · {_link(series, 'series')}"
    return f'<figure><a href="{relative(shown)}">{image}</a><figcaption>{_text(name)}: {links}</figcaption></figure>'


def _steps(state: ProjectState) -> str:
    rows = "".join(_step_row(step) for step in state.steps)
    return (
        '<div class="scroll"><table><tr><th class="number">#</th><th>Step</th><th>What it makes</th><th>Module</th>'
        f'<th class="number">Runs</th><th>Reads from</th></tr>{rows}</table></div>'
    )


def _step_row(step: Step) -> str:
    above = sorted({step_name(up.stage) for run in step.runs for up in run.upstream})
    return (
        f'<tr id="step-{_text(step.name)}"><td class="number">{step.position or ""}</td><td><b>{_text(step.name)}</b></td>'
        f'<td>{_text(step.description)}</td><td><code>{_text(step.tool)}</code></td><td class="number">{len(step.runs)}</td>'
        f"<td>{', '.join(_step_link(name) for name in above) or 'nothing'}</td></tr>"
    )


def _step_link(name: str) -> str:
    return f'<a href="#step-{_text(name)}">{_text(name)}</a>'


def _run(state: ProjectState, run: RunRecord, included: Mapping[str, HashedFile]) -> str:
    changed = f" with changes in {_text(', '.join(run.git.dirty))}" if run.git.dirty else ""
    pairs = [
        ("Step", _step_link(step_name(run.stage))),
        ("Command", f"<code>{_text(run.command)}</code>"),
        ("Time", f"{utc(run.started):%Y-%m-%d %H:%M:%S} to {utc(run.ended):%H:%M:%S} UTC, {run.seconds:.1f} s"),
        ("Code", f"<code>{_text(run.git.commit or 'outside a git checkout')}</code>{changed}"),
        ("Seed", "none" if run.seed is None else str(run.seed)),
        ("Ran on", f"{_text(device_of(run))}, by {_text(run.machine.user)}"),
        ("After the runs", ", ".join(_run_link(above.stage) for above in run.upstream) or "none"),
        ("Record", f'{_link(record_path(run.stage))}, claim <span class="hash">{run.claim_sha256}</span>'),
    ]
    read = "".join(_read_row(state, dep, included) for dep in run.deps)
    made = "".join(_file_row(file, included) for file in run.files_made())
    return (
        f'<details><summary>{_text(run.stage)}<span class="note">{run.seconds:.1f} s · '
        f'{utc(run.ended):%Y-%m-%d %H:%M} UTC</span></summary><div id="run-{_text(run.stage)}">{_pairs(pairs)}'
        f'<h3>Read</h3><table class="files">{read}</table><h3>Made</h3><table class="files">{made}</table></div></details>\n'
    )


def _run_link(stage: str) -> str:
    return f'<a href="#run-{_text(stage)}">{_text(stage)}</a>'


def _read_row(state: ProjectState, dep: HashedPath, included: Mapping[str, HashedFile]) -> str:
    if dep.is_folder:
        makers = sorted({step_name(state.makers[file.path]) for file in dep.files if file.path in state.makers})
        from_ = f", made by {', '.join(_step_link(name) for name in makers)}" if makers else ""
        name = f'{_text(dep.path)}/ <span class="note">{len(dep.files)} files{from_}</span>'
        return f'<tr><td>{name}</td><td class="number"></td><td class="hash">{dep.sha256}</td></tr>'
    return _file_row(dep.files[0], included)


def _files(state: ProjectState, included: Mapping[str, HashedFile]) -> str:
    makers = state.makers | {record_path(run.stage): run.stage for run in state.runs}
    inside = [included[path] for path in sorted(included)]
    outside = [file for path, file in sorted(state.made.items()) if path not in included]
    outside += [dep.files[0] for dep in state.given if not dep.is_folder and dep.path not in included]
    blocks = [_file_block("In this crate", inside, makers, included)]
    if outside:
        blocks.append(_file_block("Named by their hashes, not in this crate", outside, makers, included))
    return "".join(blocks)


def _file_block(
    title: str, files: list[HashedFile], makers: Mapping[str, str], included: Mapping[str, HashedFile]
) -> str:
    total = _size(sum(file.size for file in files))
    rows = "".join(_file_row(file, included, makers.get(file.path)) for file in files)
    opened = " open" if len(files) <= 40 else ""
    return (
        f"<details{opened}><summary>{title}: {len(files)} files, {total}</summary><div>"
        f'<table class="files"><tr><th>Path</th><th class="number">Size</th><th>SHA-256</th></tr>{rows}</table></div></details>\n'
    )


def _file_row(file: HashedFile, included: Mapping[str, HashedFile], maker: str | None = None) -> str:
    held = included.get(file.path)
    name = _link(file.path, file.path) if held is not None and held.sha256 == file.sha256 else _text(file.path)
    made = f' <span class="note">by {_run_link(maker)}</span>' if maker else ""
    return (
        f'<tr><td>{name}{made}</td><td class="number">{_size(file.size)}</td><td class="hash">{file.sha256}</td></tr>'
    )


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    items = "".join(f"<dt>{_text(term)}</dt><dd>{meaning}</dd>" for term, meaning in pairs)
    return f"<dl>{items}</dl>" if items else ""


def _link(path: str, text: str | None = None) -> str:
    return f'<a href="{relative(path)}">{_text(text or path.removeprefix(RESULTS))}</a>'


def _text(text: str) -> str:
    return html.escape(text)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _size(count: int) -> str:
    """Return a number of bytes in the unit that leaves at most three digits before the point."""
    power = min(max(len(str(count)) - 1, 0) // 3, len(_PREFIXES) - 1)
    return f"{count / 1000**power:.{0 if power == 0 else 1}f} {_PREFIXES[power]}"
