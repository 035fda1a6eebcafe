"""The crate's page: everything is on it, every link leads somewhere, and nothing is fetched."""

import zipfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from dcnas_lineage.exports.markdown import rendered
from dcnas_lineage.exports.rocrate import write_rocrate
from dcnas_lineage.exports.state import ProjectState


class _Page(HTMLParser):
    """Links, loaded files, anchors and text of a page; and whether all elements are closed in order."""

    _VOID = ("meta", "img", "source", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.links += [values["href"]] if tag == "a" else []
        self.loaded += [values[name] for name in ("src", "srcset") if name in values]
        self.loaded += [values["href"]] if tag == "link" else []
        self.anchors += [values["id"]] if "id" in values else []
        self.open += [] if tag in self._VOID else [tag]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def members(state: ProjectState, tmp_path: Path) -> dict[str, bytes]:
    """Name -> bytes, of all that the crate holds."""
    with zipfile.ZipFile(write_rocrate(state, tmp_path / "crate.zip")) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def page(members: dict[str, bytes]) -> _Page:
    """The page, parsed."""
    return _Page(members["ro-crate-preview.html"].decode())


def test_every_link_leads_somewhere(page: _Page, members: dict[str, bytes]) -> None:
    """Links to files lead to files of the crate, links within the page to one anchor each; all elements are closed."""
    assert page.open == []
    assert len(page.anchors) == len(set(page.anchors))
    inner = {link.removeprefix("#") for link in page.links if link.startswith("#")}
    files = {unquote(link) for link in page.links if not link.startswith(("#", "http"))}
    assert inner <= set(page.anchors)
    assert files <= set(members)
    assert {"results/table_1.csv", "dvc.yaml", "data/runs/train/b c.json", "ro-crate-metadata.json"} <= files


def test_nothing_is_fetched_from_elsewhere(page: _Page, members: dict[str, bytes]) -> None:
    """It opens without a network: images lie beside it, there is no script, the style has no address in it."""
    assert page.loaded
    assert {unquote(name) for name in page.loaded} <= set(members)
    text = members["ro-crate-preview.html"].decode()
    assert not any(word in text for word in ("<script", "url(", "@import"))


def test_tables_steps_runs_and_hashes_are_listed(page: _Page, state: ProjectState) -> None:
    """What a reader looks for is there as text: titles and cells of tables, steps, runs, parameters, every SHA-256."""
    assert "Table 1: what became of it" in page.text
    assert "24.67" in page.text
    assert all(step.description in page.text for step in state.steps)
    assert all(run.stage in page.text and run.run_id not in page.text for run in state.runs)
    hashes = {file.sha256 for run in state.runs for file in run.files_made()} | {dep.sha256 for dep in state.given}
    assert all(sha256 in page.text for sha256 in hashes)


def test_it_follows_the_readers_scheme(members: dict[str, bytes]) -> None:
    """Light and dark colours, and of a figure that exists in both the one that fits; the pair is shown once."""
    text = members["ro-crate-preview.html"].decode()
    assert "@media (prefers-color-scheme: dark)" in text
    assert text.count("<img ") == 1
    assert '<source srcset="results/figures/curve_dark.svg" media="(prefers-color-scheme: dark)">' in text
    assert '<a href="results/figures/curve.figure.json">series</a>' in text


def test_what_people_wrote_is_no_markup(members: dict[str, bytes]) -> None:
    """Names with angle brackets are shown as they are."""
    text = members["ro-crate-preview.html"].decode()
    assert "The &lt;maintainers&gt;" in text
    assert "b &lt;c&gt;" in text


def test_a_warning_below_a_table_is_never_folded() -> None:
    """The remark that a figure is not to be relied on stands open; the explanation of the cells is folded."""
    _, content = rendered("## T\n\n| a | b |\n| - | -: |\n| x | **1** † |\n\n† Noisy.\n\nCells: means.\n")
    open_part, folded = content.split("<details")
    assert "† Noisy." in open_part
    assert "Cells: means." in folded
    assert '<td class="number"><b>1</b> †</td>' in open_part


def test_tables_that_only_a_blank_line_sets_apart_are_two() -> None:
    """Each with its own head; text between tables stays where it is."""
    _, content = rendered(
        "# T\n\n| a |\n| - |\n| 1 |\n\n| b |\n| - |\n| 2 |\n\nBetween.\n\n- one\n\n| c |\n| - |\n| 3 |\n"
    )
    assert content.count("<table") == 3
    assert content.index("<p>Between.</p><ul><li>one</li></ul>") < content.index(">c<")
