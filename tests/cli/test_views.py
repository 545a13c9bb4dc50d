"""What people and scripts read of a run: status, log, show, plot, and the progress lines."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from inline_snapshot import snapshot
from rich.console import Console

from autoresearch import config
from autoresearch.cli.live import Screen, plain_line
from autoresearch.journal import Event
from autoresearch.journal.view import RunView
from autoresearch.run import FOLDER
from autoresearch.text import block, clean
from autoresearch.types import Decision, Status
from tests.cli.test_live import Story, tell_all
from tests.conftest import Toy

HOSTILE = "\x1b[31mred\x1b[0m\t=HYPERLINK(1)\x07 [bold]markup[/bold] \u202eover"
AGENT = f"""\
#!/bin/sh
n=$(grep -c "^- #" "$AUTORESEARCH_PROMPT")
case "$n" in
2) sed -i 's/^LR = .*/LR = 0.3/' train.py; printf '%s\\n' '{HOSTILE}' ;;
*) printf 'print("\\\\033[2Jcleared")\\nraise SystemExit("boom \\\\033[31m")\\n' >train.py ;;
esac
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """A run with a keep that has a hostile description, and a crash with a hostile log."""
    task = Toy(
        tmp_path_factory.mktemp("views") / "task",
        {"agent.sh": AGENT},
        {"limits": "experiments = 2"},
    ).create()
    task.call("run", "--tag", "t")
    assert task.statuses() == ["keep", "keep", "crash"]
    return task


def test_status(done: Toy) -> None:
    lines = done.call("status").stdout.splitlines()
    assert lines[0] == "run          t, done (limit reached: experiments 2)"
    assert "limit        experiments 2 of 2" in lines
    assert any("(self-reported)" in line for line in lines)
    assert any(line.startswith("  gain         0.1") and "±" in line for line in lines)
    found = json.loads(done.call("status", "--json").stdout)
    assert list(found) == [
        "version", "tag", "state", "reason", "level", "phase", "incumbent", "baseline", "counts",
        "limits", "branch", "results_tsv", "verified", "ideas", "expectations",
        "screen",
    ]  # fmt: skip
    assert found["version"] == 1 and found["state"] == "done"
    assert found["incumbent"]["experiment"] == 1
    assert found["incumbent"]["low"] < found["incumbent"]["value"] < found["incumbent"]["high"]
    assert found["counts"]["keep"] == 2 and found["counts"]["crash"] == 1
    assert found["limits"]["experiments"] == {"used": 2, "max": 2}
    assert Path(found["results_tsv"]).is_file()


def test_log(done: Toy) -> None:
    text = done.call("log").stdout
    assert "\x1b" not in text and "\x07" not in text and "\u202e" not in text
    assert "red =HYPERLINK(1) [bold]markup[/bold] over" in " ".join(text.split())
    assert max(len(line) for line in text.splitlines()) <= 100
    found = json.loads(done.call("log", "--json").stdout)
    assert [row["status"] for row in found["rows"]] == ["keep", "keep", "crash"]
    row = found["rows"][1]
    assert set(row) == {
        "experiment", "commit", "parent", "value", "low", "high", "samples", "memory_gb", "status",
        "reason", "description", "kind", "agent", "cost_usd", "tokens", "started", "decided",
        "self_reported", "open", "verified", "expected", "expected_change",
    }  # fmt: skip
    assert row["self_reported"] is True and row["open"] is False and row["cost_usd"] is None
    assert row["started"].endswith("Z")
    assert found["rows"][2]["value"] is None
    assert len(json.loads(done.call("log", "--json", "--limit", "1").stdout)["rows"]) == 1
    last = done.call("log", "--limit", "1")
    assert len(last.stdout.splitlines()) < len(text.splitlines())
    assert last.stderr == "2 earlier rows: --limit 0 shows all\n"
    for whole in (done.call("log"), done.call("log", "--limit", "0")):
        assert (whole.stdout, whole.stderr) == (text, "")


def test_show(done: Toy) -> None:
    text = done.call("show", "1").stdout
    assert "keep: 0.0" in text and "% sure" in text
    assert "-LR = 0.5" in text and "+LR = 0.3" in text
    assert "screen" in text and "fresh" in text
    crash = done.call("show", "2").stdout
    assert "last lines of its log" in crash and "boom" in crash
    assert "\x1b" not in crash
    found = json.loads(done.call("show", "1", "--json").stdout)
    assert {"samples", "hypothesis", "expected", "diff", "log_tail"} <= set(found)
    assert {"seed", "value", "wall_s", "cpu_s", "level", "node", "void"} <= set(found["samples"][0])
    assert done.call("show", "1", "--diff").stdout.startswith("diff --git a/train.py b/train.py")
    assert "cleared" in done.call("show", "2", "--log").stdout


def test_what_does_not_exist_is_named(done: Toy, tmp_path: Path) -> None:
    assert "choose one from 0 to 2" in done.call("show", "9", code=2).stderr
    assert "there are: t" in done.call("status", "--tag", "x", code=2).stderr
    error = json.loads(done.call("status", "--tag", "x", "--json", code=2).stdout)["error"]
    assert error["message"] == "no run 'x'" and error["kind"] == "UserError"
    assert "autoresearch init" in Toy(tmp_path).call("log", code=2).stderr
    fresh = Toy(tmp_path / "fresh").create()
    assert "autoresearch run" in fresh.call("status", code=2).stderr


def test_the_tsv_is_one_row_an_experiment(done: Toy) -> None:
    rows = done.rows()
    assert all(len(row) == 5 for row in rows)
    assert not rows[2][4].startswith("=")
    assert rows[3][1:4] == ["0.000000", "0.0", "crash"]


def test_plot(done: Toy, tmp_path: Path) -> None:
    for suffix, magic in ((".svg", b"<?xml"), (".png", b"\x89PNG")):
        target = tmp_path / f"plot{suffix}"
        assert done.call("plot", "--output", str(target)).stdout.strip() == str(target)
        assert target.read_bytes().startswith(magic)
    again = tmp_path / "again.svg"
    done.call("plot", "--output", str(again))
    assert again.read_bytes() == (tmp_path / "plot.svg").read_bytes()
    assert "2 experiments, 1 kept" in again.read_text()
    assert done.call("plot").stdout.strip() == str(done.run_folder / "progress.svg")


def test_progress_is_one_plain_line_an_event(done: Toy) -> None:
    log = (done.run_folder / "engine.log").read_text()
    assert "\x1b" not in log
    lines = [line[9:] for line in log.splitlines()]
    assert lines[0] == "run t, level namespaces" or lines[0].startswith("run t, level")
    assert lines[1] == "measuring the baseline, sample 1"
    assert any(line.startswith("#0 keep     0.1") for line in lines)
    assert any(line.startswith("#1 keep     0.0") and ", -0.1" in line for line in lines)
    assert any(line.startswith("#2 crash    ") and "exit code 1: boom" in line for line in lines)
    assert lines[-1] == "ended: limit reached: experiments 2"


def test_the_live_table_fits_a_small_terminal(done: Toy) -> None:
    contract = config.load(done.root / "autoresearch.toml")
    view = RunView()
    events: list[Event] = []
    from autoresearch.journal import Journal  # noqa: PLC0415

    for event in Journal(done.run_folder / "journal.db", read_only=True).events():
        view.apply(event)
        events.append(event)
        screen = Screen(contract, view)
        screen.note(event)
        out = io.StringIO()
        Console(file=out, width=80, height=24, force_terminal=True).print(screen.render())
        lines = out.getvalue().splitlines()
        assert len(lines) <= 24
        assert "\u202e" not in out.getvalue() and "\x07" not in out.getvalue()
    assert "best 0.0" in out.getvalue()
    assert any(plain_line(event, view, contract) for event in events)


def test_a_story_reads_well(tmp_path: Path) -> None:
    """Status, log and show of a run with every kind of row, as people see them."""
    (tmp_path / "autoresearch.toml").touch()
    tell_all(Story(tmp_path / FOLDER / "nov23"))
    task = Toy(tmp_path)
    said, _, summary = task.call("status").stdout.partition("val_bpb, lower is better")
    assert said.splitlines() == snapshot(
        [
            "run          nov23, stopped (stopped by request)",
            "level        namespaces",
            "limit        experiments 5 of 100",
            "limit        hours 0.00 of 8",
        ]
    )
    assert "autoresearch/nov23-2" in summary and f"{FOLDER}/nov23/results.tsv" in summary
    assert task.call("log").stdout == snapshot("""\
#  commit   val_bpb (self-reported)   change  status     GiB  description
0  0000000                   2.4508           keep      0.25  baseline
1  0000001                   2.4091  -0.0417  keep      0.25  MATRIX_LR 0.04 -> 0.06
2  0000002                     2.46  +0.0509  discard   0.25  DEPTH 4 -> 6
3  0000003                        -           crash     0.25  cmd|'calc' [bold red]hi[/] $\\frac{1}$
                                                              中文 end: boom
4  0000004                        -           rejected     -  rename prepare.py: prepare.py is
                                                              protected
5  0000005                      2.1   -0.309  discard   0.25  wd (open): guard failed: tox
""")


def test_signs_survive_and_what_is_absent_is_null(tmp_path: Path) -> None:
    (tmp_path / "autoresearch.toml").touch()
    story = Story(tmp_path / FOLDER / "nov23")
    story.baseline(-3.0)
    number = story.open("shorter")
    story.decide(Decision(Status.REJECTED, "-4.2 is \x1b[1mno number"))
    task = Toy(tmp_path)
    row = json.loads(task.call("log", "--json").stdout)["rows"][number]
    absent = {name for name, value in row.items() if value is None}
    assert absent == {"value", "low", "high", "memory_gb", "cost_usd", "tokens", "verified",
                      "expected", "expected_change"}  # fmt: skip
    found = json.loads(task.call("show", "0", "--json").stdout)
    assert found["diff"] is None and found["log_tail"] is None and found["hypothesis"] is None
    assert "-3" in task.call("log").stdout


def test_logs_and_signs_are_printed_as_they_are_meant() -> None:
    assert block("\x1b[31mred\x1b[0m 10 %\r20 %\r\nend\x07\t|\x1b]0;title\x07\x1b(") == (
        "red 10 %\n20 %\nend\N{REPLACEMENT CHARACTER}\t|\N{REPLACEMENT CHARACTER}("
    )
    assert clean("-0.3\tis\nbetter\x1b", 80) == "-0.3 is better"


def test_a_patch_can_be_applied(done: Toy, tmp_path: Path) -> None:
    patch = tmp_path / "1.patch"
    patch.write_text(done.call("show", "1", "--diff").stdout)
    done.git("apply", "--check", str(patch))


def test_a_log_in_a_pipe_has_one_line_a_row(done: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS")
    assert len(done.call("log").stdout.splitlines()) == 1 + len(done.statuses())
