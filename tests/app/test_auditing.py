"""What the audit says of documents, and how an answer is written."""

import json
from pathlib import Path

import pytest

from dcnas_app.auditing import Answer, as_json, print_answer, write_html
from dcnas_app.auditing import _documents as documents
from dcnas_lineage.project_audit import Audited
from dcnas_lineage.verdict import Link, Verdict

BLOCK = "<!-- generated: t.md -->\n| a |\n| 1.5 |\n<!-- end generated -->\n"
BROKEN = Link(depth=1, what="data/x", detail="", problem="a < b", verdict=Verdict.BROKEN)
CELL = Audited(
    subject="results/t", row="r", column="c", text="1", links=(Link(depth=0, what="cell", detail="d"), BROKEN)
)


@pytest.mark.parametrize(("edit", "verdict"), [("1.5", Verdict.HOLDS), ("2.5", Verdict.BROKEN)])
def test_a_number_edited_in_the_readme_is_found(tmp_path: Path, edit: str, verdict: Verdict) -> None:
    """A generated block that says otherwise than the table it names is broken, and both are named."""
    (tmp_path / "t.md").write_text("## T\n\n| a |\n| 1.5 |\n")
    (tmp_path / "README.md").write_text(BLOCK.replace("1.5", edit))
    (link,) = documents(tmp_path)
    assert (link.what, link.verdict) == ("README.md: t.md", verdict)


def test_an_answer_is_printed_as_text_json_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each form holds the verdict, the cell and the failing edge; the page escapes what is no HTML."""
    answer = Answer(cells=(CELL,), others=())
    print_answer(answer, tree=False)
    said = capsys.readouterr().out
    assert "BROKEN results/t: r, c: data/x: a < b" in said
    assert said.endswith("BROKEN\n")
    assert json.loads(as_json(answer))["cells"][0]["failing"]["what"] == "data/x"
    write_html(answer, tmp_path / "audit.html")
    assert "a &lt; b" in (tmp_path / "audit.html").read_text()
    assert answer.verdict.exit_code == 12
