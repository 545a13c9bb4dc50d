"""What a model may do to a workspace: list, read, edit by search and replace, run.

The model's requests and the files are hostile. A path is walked from the workspace's descriptor,
one name after the other, so that neither ``..`` nor a link that some command left there leads out
of it; nothing but plain files is opened; what is said back is bounded. Each answer is a text for
the model, also where it is refused. What begins with ``.autoresearch`` is of the memory instead, as
it is for commands, and can only be read.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import stat
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath

from ..text import block, excerpt
from ..types import Launched

MEMORY = ".autoresearch"
FILE_BYTES = 1 << 20
SHOWN_LENGTH = 60_000
LISTED = 500
LOOKED_AT = 20_000
DEEPEST = 20
RUN_S = 120.0
RUN_LINES, RUN_WIDTH = 100, 400
SHELL_WORDS = frozenset({"|", "||", "&&", ";", "&", ">", ">>", "<", "<<", "2>&1", "2>"})
Runner = Callable[[Sequence[str], float], Awaitable[Launched]]


class RefusedError(Exception):
    """The model asked for something that it may not do, or that cannot be done."""


class Hands:
    """The tools of one iteration; one is used after the other, never two at once."""

    def __init__(
        self,
        workspace: Path,
        editable: Sequence[str],
        run: Runner | None,
        memory: Path | None = None,
    ) -> None:
        self._workspace = workspace
        self._memory = memory
        self._editable = frozenset(each for each in editable if not each.startswith(f"{MEMORY}/"))
        self._run = run
        self.edits = 0

    def list_files(self) -> str:
        """List the files of the workspace; those that you may edit are marked."""
        lines: list[str] = []
        for path, size in self._files():
            if len(lines) == LISTED:
                lines.append("... there are more")
                break
            lines.append(f"{path} ({size} bytes{', editable' if path in self._editable else ''})")
        return block("\n".join(lines)) or "there are no files"

    def _files(self) -> Iterator[tuple[str, int]]:
        yield from _walk(self._workspace)
        if self._memory is not None:
            yield from ((f"{MEMORY}/{path}", size) for path, size in _walk(self._memory))

    def read_file(self, path: str, first_line: int = 1, lines: int = 1000) -> str:
        """Read a text file of the workspace.

        Args:
            path: Relative to the workspace.
            first_line: Where to begin, counted from 1.
            lines: How many lines to read at most.
        """
        try:
            with self._place(path) as (folder, name):
                text, _ = _read(folder, name, path)
        except RefusedError as refused:
            return f"refused: {refused}"
        first = max(1, first_line)
        wanted = text.splitlines(keepends=True)[first - 1 : first - 1 + max(1, lines)]
        shown = "".join(wanted)
        if len(shown) > SHOWN_LENGTH:
            shown = f"{shown[:SHOWN_LENGTH]}\n... cut here; read on with first_line"
        return shown or "(nothing there)"

    def edit_file(self, path: str, search: str, replace: str) -> str:
        """Replace one passage of a file that you may edit.

        Args:
            path: Relative to the workspace.
            search: The passage as it stands in the file, long enough to be there only once.
            replace: What to put in its place.
        """
        try:
            return self._edit(path, search, replace)
        except RefusedError as refused:
            return f"refused: {refused}"

    def _edit(self, path: str, search: str, replace: str) -> str:
        name = str(PurePosixPath(path))
        if name not in self._editable:
            may = ", ".join(sorted(self._editable)[:20])
            raise RefusedError(f"{_shown(path)} is protected; you may edit {may}")
        with self._place(name) as (folder, file):
            text, mode = _read(folder, file, name)
            if "\r\n" in text and "\r\n" not in search:
                search, replace = search.replace("\n", "\r\n"), replace.replace("\n", "\r\n")
            count = text.count(search) if search else 0
            if count != 1:
                said = f"is there {count} times" if count else "is not in the file"
                raise RefusedError(f"the passage to replace {said}; read the file again")
            if search == replace:
                raise RefusedError("search and replace are the same")
            try:
                changed = text.replace(search, replace).encode()
            except UnicodeEncodeError:
                raise RefusedError("the new text is not Unicode") from None
            if len(changed) > FILE_BYTES:
                raise RefusedError(f"the file would have {len(changed)} bytes")
            _write(folder, file, changed, mode)
        self.edits += 1
        return f"edited {name}"

    async def run_command(self, command: str, seconds: float = 30.0) -> str:
        """Run a command in the task's directory to check the change: without a shell or network.

        Args:
            command: A program and its arguments, such as: python -m py_compile train.py
            seconds: When to end it at the latest; not more than 120.
        """
        if self._run is None:
            return "refused: nothing can be run here"
        try:
            argv = shlex.split(command)
        except ValueError as error:
            return f"refused: the command cannot be split into words: {error}"
        if not argv or "\0" in command:
            return "refused: there is no command"
        if SHELL_WORDS.intersection(argv):
            return "refused: commands run without a shell; write: bash -c '...'"
        ended = await self._run(argv, min(RUN_S, max(1.0, seconds)))
        printed = excerpt(ended.log.read_bytes().decode(errors="replace"), RUN_LINES, RUN_WIDTH)
        said = "ok" if ended.outcome == "ok" else ended.detail or ended.outcome
        return f"{said}\n{printed or '(it printed nothing)'}"

    @contextlib.contextmanager
    def _place(self, path: str) -> Iterator[tuple[int, str]]:
        """The open folder that a path leads to, and the last name of it.

        Raises:
            RefusedError: it leads out of the workspace, through a link, or to nothing.
        """
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or not pure.name or "\0" in path:
            raise RefusedError(f"{_shown(path)} is not a path within the workspace")
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        root, inner = self._workspace, pure.parts[:-1]
        if self._memory is not None and inner[:1] == (MEMORY,):
            root, inner = self._memory, inner[1:]
        folder = os.open(root, flags)
        try:
            for part in inner:
                try:
                    deeper = os.open(part, flags, dir_fd=folder)
                except (OSError, ValueError) as error:
                    raise RefusedError(_why(path, error)) from None
                os.close(folder)
                folder = deeper
            yield folder, pure.name
        finally:
            os.close(folder)


def _read(folder: int, name: str, path: str) -> tuple[str, int]:
    """A plain file's text and its mode."""
    # Opening a pipe that nobody writes to would block for ever, and with it the engine.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=folder)
    except (OSError, ValueError) as error:
        raise RefusedError(_why(path, error)) from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise RefusedError(f"{_shown(path)} is not a file")
        if found.st_size > FILE_BYTES:
            raise RefusedError(f"{_shown(path)} has {found.st_size} bytes; too large to read")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(FILE_BYTES).decode(), stat.S_IMODE(found.st_mode)
    except UnicodeDecodeError:
        raise RefusedError(f"{_shown(path)} is not a text file") from None
    finally:
        os.close(descriptor)


def _write(folder: int, name: str, content: bytes, mode: int) -> None:
    """Put a new file in a file's place: what else is linked to the old one stays as it is."""
    draft = f".{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(draft, flags, 0o600, dir_fd=folder), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
    os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)


def _walk(root: Path) -> Iterator[tuple[str, int]]:
    """Plain files below a folder by relative path, with their sizes; links are not followed."""
    left = LOOKED_AT
    waiting = [""]
    while waiting:
        inner = waiting.pop()
        folders = []
        try:
            with os.scandir(root / inner) as found:
                entries = sorted(islice(found, max(0, left)), key=lambda each: each.name)
        except OSError:
            continue
        for entry in entries:
            left -= 1
            path = f"{inner}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                if entry.name != ".git" and path.count("/") < DEEPEST:
                    folders.append(f"{path}/")
            elif entry.is_file(follow_symlinks=False):
                yield path, entry.stat(follow_symlinks=False).st_size
        waiting += reversed(folders)


def _why(path: str, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"there is no {_shown(path)}; list_files shows what there is"
    return f"{_shown(path)} is not a plain file within the workspace"


def _shown(path: str) -> str:
    return excerpt(path, 1, 200)
