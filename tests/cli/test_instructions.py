"""``init --agent``: instructions for sessions of a person's own coding agent."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from autoresearch.cli.instructions import BEGIN, CLIENTS, END
from tests.conftest import Toy

pytest.importorskip("mcp", reason="without the extra mcp, no entry for it is written")
MakeToy = Callable[..., Toy]


def files(task: Toy) -> dict[str, str]:
    found = task.git("ls-files", "--others", "--modified", "--exclude-standard").splitlines()
    return {name: (task.root / name).read_text() for name in found}


@pytest.mark.parametrize("agent", sorted(CLIENTS))
def test_instructions_are_shown_and_written_once(toy: MakeToy, agent: str) -> None:
    task = toy()
    contract = (task.root / "autoresearch.toml").read_text()
    shown = task.call("init", "--agent", agent, code=2)
    assert "--yes" in shown.stderr and files(task) == {}
    assert "autoresearch try --reset -m" in shown.stdout
    said = task.call("init", "--agent", agent, "--yes").stdout
    written = files(task)
    assert sorted(written) == sorted(filter(None, (CLIENTS[agent].text, CLIENTS[agent].settings)))
    for name, text in written.items():
        assert f"wrote {name}" in said
        assert not name.endswith(".md") or (BEGIN in text and text.rstrip().endswith(END))
    assert "are in place" in task.call("init", "--agent", agent).stdout
    assert files(task) == written
    assert (task.root / "autoresearch.toml").read_text() == contract


def test_the_skill_has_a_head_and_the_server_an_entry(toy: MakeToy) -> None:
    task = toy()
    task.call("init", "--agent", "claude", "--yes")
    skill = (task.root / ".claude/skills/autoresearch/SKILL.md").read_text()
    head = skill.split("---\n")[1].splitlines()
    assert head[0] == "name: autoresearch" and head[1].startswith("description: ")
    assert len(head) == 2 and len(head[1]) < 1024
    entry = json.loads((task.root / ".mcp.json").read_text())["mcpServers"]["autoresearch"]
    assert entry["args"][-1] == "mcp"


def test_what_a_person_wrote_stays(toy: MakeToy) -> None:
    old = f"# Mine\n\nBe brief.\n\n{BEGIN}\nold words\n{END}\n\n## Also mine\n"
    settings = '{\n\t"$schema": "x",\n\t"mcp": {\n\t\t"other": {"type": "remote"}\n\t}\n}\n'
    task = toy({"AGENTS.md": old, "opencode.json": settings})
    said = task.call("init", "--agent", "opencode", "--yes").stdout
    assert "-old words" in said and " Be brief." in said
    text = (task.root / "AGENTS.md").read_text()
    assert text.startswith("# Mine\n\nBe brief.\n\n") and text.endswith("\n\n## Also mine\n")
    assert text.count(BEGIN) == text.count(END) == 1 and "old words" not in text
    found = (task.root / "opencode.json").read_text()
    assert json.loads(found)["mcp"]["other"] == {"type": "remote"}
    assert json.loads(found)["mcp"]["autoresearch"]["type"] == "local"
    assert '\n\t"$schema": "x"' in found


def test_a_table_is_added_to_toml_and_replaced_in_place(toy: MakeToy) -> None:
    old = 'model = "x"\n\n[mcp_servers.other]\ncommand = "y"\n'
    task = toy({".codex/config.toml": old})
    task.call("init", "--agent", "codex", "--yes")
    path = task.root / ".codex/config.toml"
    text = path.read_text()
    assert text.startswith(old)
    entry = tomllib.loads(text)["mcp_servers"]["autoresearch"]
    assert entry["args"][-1] == "mcp" and entry["tool_timeout_sec"] > 3600
    path.write_text(text.replace("tool_timeout_sec = ", "tool_timeout_sec = 1"))
    task.call("init", "--agent", "codex", "--yes")
    assert path.read_text() == text
    path.write_text(text + "\n[mcp_servers.autoresearch]\ncommand = 'mine'\n")
    assert ".codex/config.toml is left" in task.call("init", "--agent", "codex").stdout


def test_settings_that_cannot_be_added_to_are_left(toy: MakeToy) -> None:
    task = toy({".mcp.json": "// mine\n{}\n"})
    said = task.call("init", "--agent", "claude", "--yes").stdout
    assert "note: .mcp.json is left" in said and '"autoresearch"' in said
    assert (task.root / ".mcp.json").read_text() == "// mine\n{}\n"


def test_a_link_out_of_the_task_is_not_followed(toy: MakeToy, tmp_path: Path) -> None:
    task = toy()
    (tmp_path / "other.md").write_text("theirs\n")
    (task.root / "AGENTS.md").symlink_to(tmp_path / "other.md")
    assert "leads out of" in task.call("init", "--agent", "pi", "--yes", code=2).stderr
    assert (tmp_path / "other.md").read_text() == "theirs\n"


def test_an_agent_without_instructions_is_named(toy: MakeToy) -> None:
    said = toy().call("init", "--agent", "search", "--yes", code=2).stderr
    assert "claude, codex, opencode, gemini, pi" in said


def test_a_contract_that_is_not_there_yet_is_written_too(toy: MakeToy) -> None:
    task = toy()
    (task.root / "autoresearch.toml").unlink()
    options = ("--editable", "train.py", "--command", "python3 train.py", "--metric", "loss")
    said = task.call("init", "--agent", "pi", "--yes", *options).stdout
    assert "wrote AGENTS.md" in said and said.endswith("next: autoresearch check\n")
    assert (task.root / "autoresearch.toml").exists()
