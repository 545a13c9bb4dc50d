"""What a model may do to a workspace, and above all what it may not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from autoresearch.agents.hands import FILE_BYTES, LISTED, Hands
from autoresearch.scratch import remove
from autoresearch.types import Launched, Usage

SECRET = "what the person keeps to themselves"


@pytest.fixture
def hands(tmp_path: Path) -> Hands:
    workspace = tmp_path / "workspace"
    (workspace / "sub").mkdir(parents=True)
    (workspace / "train.py").write_text("LR = 0.5\nWD = 0.1\n")
    (workspace / "sub" / "model.py").write_text("x = 1\n")
    (workspace / "prepare.py").write_text("data = 3\n")
    (tmp_path / "secret").write_text(SECRET)
    return Hands(workspace, ("train.py", "sub/model.py"), None)


def test_an_edit_replaces_one_passage_and_keeps_the_mode(hands: Hands, tmp_path: Path) -> None:
    train = tmp_path / "workspace" / "train.py"
    train.chmod(0o750)
    assert hands.edit_file("train.py", "LR = 0.5", "LR = 0.3") == "edited train.py"
    assert hands.edit_file("./sub/model.py", "x = 1", "x = 2") == "edited sub/model.py"
    assert train.read_text() == "LR = 0.3\nWD = 0.1\n"
    assert train.stat().st_mode & 0o777 == 0o750
    assert hands.edits == 2
    assert sorted(each.name for each in train.parent.iterdir()) == ["prepare.py", "sub", "train.py"]


@pytest.mark.parametrize(
    ("path", "search", "replace", "said"),
    [
        (
            "prepare.py",
            "data = 3",
            "data = 4",
            "prepare.py is protected; you may edit sub/model.py",
        ),
        ("new.py", "", "x", "new.py is protected"),
        ("train.py", "LR = 0.9", "x", "is not in the file"),
        ("train.py", "", "x", "is not in the file"),
        ("train.py", " = 0.", "x", "is there 2 times"),
        ("train.py", "LR", "LR", "are the same"),
        ("train.py", "LR", "\ud800", "not Unicode"),
        ("train.py", "LR", "x" * FILE_BYTES, "the file would have"),
    ],
)
def test_an_edit_is_refused_with_a_reason(
    path: str, search: str, replace: str, said: str, hands: Hands, tmp_path: Path
) -> None:
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    answer = hands.edit_file(path, search, replace)
    assert answer.startswith("refused: ") and said in answer
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    "path",
    ["../secret", "sub/../../secret", "/etc/passwd", "{outside}", "", ".", "..", "sub", "a\0b",
     "\ud800", "x" * 5000, "sub/" * 3000 + "x", "train.py/x"],
)  # fmt: skip
def test_no_path_leads_out(path: str, hands: Hands, tmp_path: Path) -> None:
    path = path.replace("{outside}", str(tmp_path / "secret"))
    for answer in (hands.read_file(path), hands.edit_file(path, "what", "x")):
        assert answer.startswith("refused: ") and SECRET not in answer and "root:" not in answer
    assert (tmp_path / "secret").read_text() == SECRET


@pytest.mark.parametrize("name", ["train.py", "sub"])
def test_links_are_not_followed(name: str, hands: Hands, tmp_path: Path) -> None:
    # As a command that the model ran may have left them.
    workspace, outside = tmp_path / "workspace", tmp_path / "outside"
    outside.mkdir()
    (outside / "model.py").write_text(SECRET)
    if name == "sub":
        (workspace / "sub" / "model.py").unlink()
        (workspace / "sub").rmdir()
        (workspace / "sub").symlink_to(outside)
        path = "sub/model.py"
    else:
        (workspace / "train.py").unlink()
        (workspace / "train.py").symlink_to(tmp_path / "secret")
        path = "train.py"
    assert "not a plain file" in hands.read_file(path)
    assert "not a plain file" in hands.edit_file(path, "what", "x")
    assert path not in hands.list_files()
    assert (outside / "model.py").read_text() == SECRET
    assert (tmp_path / "secret").read_text() == SECRET


def test_an_edit_leaves_what_else_is_linked_to_a_file(hands: Hands, tmp_path: Path) -> None:
    other = tmp_path / "other"
    os.link(tmp_path / "workspace" / "train.py", other)
    hands.edit_file("train.py", "LR = 0.5", "LR = 0.3")
    assert other.read_text() == "LR = 0.5\nWD = 0.1\n"


@pytest.mark.parametrize("kind", ["pipe", "binary", "large"])
def test_what_is_no_text_file_is_not_read(kind: str, hands: Hands, tmp_path: Path) -> None:
    train = tmp_path / "workspace" / "train.py"
    train.unlink()
    if kind == "pipe":
        os.mkfifo(train)
    elif kind == "binary":
        train.write_bytes(b"\xff\xfe\x00")
    else:
        with train.open("wb") as file:
            file.truncate(1 << 40)
    assert hands.read_file("train.py").startswith("refused: train.py ")
    assert hands.edit_file("train.py", "a", "b").startswith("refused: train.py ")


def test_what_is_said_back_is_bounded(hands: Hands, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    (workspace / "wide.txt").write_text("x" * 900_000)
    assert len(hands.read_file("wide.txt")) < 70_000
    (workspace / "long.txt").write_text("".join(f"{i}\n" for i in range(5000)))
    assert hands.read_file("long.txt", first_line=4999) == "4998\n4999\n"
    assert hands.read_file("long.txt", first_line=2, lines=2) == "1\n2\n"
    for i in range(LISTED + 10):
        (workspace / f"f{i:04}").touch()
    assert len(hands.list_files().splitlines()) == LISTED + 1


def test_a_tower_of_folders_is_survived(hands: Hands, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    here = os.open(workspace, os.O_RDONLY)
    for _ in range(2000):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    try:
        assert "train.py (18 bytes, editable)" in hands.list_files()
        assert hands.read_file("d/" * 1500 + "x").startswith("refused: ")
    finally:
        remove(workspace)  # else nothing can


def test_the_memory_is_read_like_a_folder_and_never_written(hands: Hands, tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    (memory / "logs").mkdir(parents=True)
    (memory / "logs" / "1.log").write_text("loss: 3")
    (memory / "out").symlink_to(tmp_path)
    mine = Hands(tmp_path / "workspace", ("train.py", ".autoresearch/logs/1.log"), None, memory)
    assert ".autoresearch/logs/1.log (7 bytes)" in mine.list_files()
    assert mine.read_file(".autoresearch/logs/1.log") == "loss: 3"
    assert mine.edit_file("train.py", "LR = 0.5", "LR = 0.3") == "edited train.py"
    assert "is protected" in mine.edit_file(".autoresearch/logs/1.log", "3", "1")
    for path in (".autoresearch/out/secret", ".autoresearch/../../secret", ".autoresearch"):
        assert mine.read_file(path).startswith("refused: "), path
    assert hands.read_file(".autoresearch/logs/1.log").startswith("refused: ")


def test_line_ends_of_windows_are_kept(hands: Hands, tmp_path: Path) -> None:
    train = tmp_path / "workspace" / "train.py"
    train.write_bytes(b"a = 1\r\nb = 2\r\n")
    hands.edit_file("train.py", "a = 1\nb", "a = 3\nb")
    assert train.read_bytes() == b"a = 3\r\nb = 2\r\n"


def test_commands_are_bounded_and_run_without_a_shell(tmp_path: Path) -> None:
    asked: list[tuple[Sequence[str], float]] = []
    log = tmp_path / "log"
    log.write_text("".join(f"line {i} \x1b[31m\n" for i in range(1000)))

    async def run(argv: Sequence[str], seconds: float) -> Launched:
        asked.append((argv, seconds))
        return Launched("timeout", "killed after 120 s", None, log, Usage())

    hands = Hands(tmp_path, (), run)
    answer = asyncio.run(hands.run_command("python -c 'print(1)'", 1e9))
    assert asked == [(["python", "-c", "print(1)"], 120.0)]
    assert answer.startswith("killed after 120 s\n") and answer.endswith("line 999 ")
    assert len(answer) < 10_000 and "\x1b" not in answer
    for command in ("", "a | b", "make && make", "'", "a > b"):
        assert asyncio.run(hands.run_command(command)).startswith("refused: ")
    assert len(asked) == 1
