"""The private git store of a run, and the delivery of its branch; plumbing commands only.

The store is a bare repository that no agent and no candidate ever sees. Hardened porcelain still
executed planted filters in our measurements; plumbing on a private directory executed nothing. New
commits take no process at all: see ``loose.py``. Nothing here knows what an experiment is.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import disk, loose
from .errors import DiskFullError, ExecutorError, StoreError, UserError
from .failpoint import failpoint

IDENTITY = "autoresearch <autoresearch@localhost>"
REGULAR, EXECUTABLE, LINK, SUBMODULE = "100644", "100755", "120000", "160000"
CACHED_BLOB_BYTES = 1 << 20
CACHE_BYTES = 64 << 20
SHALLOW = "shallow"
BUNDLED = "refs/autoresearch/files"
NO_TEMPLATE = "--template="
LEFTOVERS = (
    "*.lock", "refs/**/*.lock", f"objects/*/{loose.DRAFT}*", "objects/pack/tmp_*",
    "objects/pack/.tmp-*",
)  # fmt: skip
STORE_CONFIG = {
    "core.fsync": "all",
    "gc.auto": "0",
    "maintenance.auto": "false",
    # There are none: looking for them would start a process each.
    "core.commitGraph": "false",
    "core.multiPackIndex": "false",
    "core.hooksPath": os.devnull,
    "core.logAllRefUpdates": "false",
}
NO_ROOM = (b"No space left on device", b"Disk quota exceeded")


Edits = Mapping[str, tuple[str, bytes] | None]
"""New content by path: mode and bytes, or None for a deleted file."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a tree."""

    mode: str
    oid: str


def environment(git_dir: Path | None = None) -> dict[str, str]:
    """A git environment that reads no configuration of the system, the person or an agent."""
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": "/nonexistent",
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_ATTR_NOSYSTEM": "1",
    }
    if git_dir is not None:
        env["GIT_DIR"] = str(git_dir)
    return env


def git(
    *argv: str, cwd: Path, env: Mapping[str, str], stdin: bytes = b"", check: bool = True
) -> subprocess.CompletedProcess[bytes]:
    """Run one git command.

    Raises:
        DiskFullError: git found no room and ``check`` is true.
        ExecutorError: git was killed.
        StoreError: git failed and ``check`` is true.
    """
    done = subprocess.run(
        ["git", *argv], cwd=cwd, env=dict(env), input=stdin, capture_output=True, check=False
    )
    if done.returncode < 0:
        # By the kernel for memory, or by somebody: that is no answer to anything that was asked.
        raise ExecutorError(
            f"git {argv[0]} was killed by signal {-done.returncode}",
            fix="autoresearch run continues where it was",
        )
    if check and done.returncode != 0:
        if any(words in done.stderr for words in NO_ROOM):
            raise DiskFullError(f"disk full: git has no room in {env.get('GIT_DIR', cwd)}")
        said = done.stderr.decode(errors="replace").strip()
        raise StoreError(
            f"git {' '.join(argv[:3])} failed: {said or done.returncode}",
            fix="see what git says; autoresearch run checks what is there and continues",
        )
    return done


def blob_oid(data: bytes) -> str:
    """The name that git gives to these bytes."""
    return loose.name("blob", data)


class Store:
    """A run's private bare repository; owns one long-lived ``git cat-file`` for reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Not in the store's own file, which could get lost: without them git does not sync.
        self._env = environment(path) | _configured(STORE_CONFIG)
        self._reader: subprocess.Popen[bytes] | None = None
        self._blobs: dict[str, bytes] = {}
        self._cached = 0
        self._trees: dict[str, dict[str, Entry]] = {}

    @classmethod
    def create(cls, path: Path) -> Store:
        """Make the store anew; what a killed attempt left there is removed."""
        shutil.rmtree(path, ignore_errors=True)
        argv = ("init", "--quiet", "--bare", NO_TEMPLATE, str(path))
        git(*argv, cwd=path.parent, env=environment())
        failpoint("store.created")
        return cls(path)

    def clear_leftovers(self) -> None:
        """Remove what killed git processes left; only the holder of the run's lock may."""
        for pattern in LEFTOVERS:
            for file in self.path.glob(pattern):
                file.unlink(missing_ok=True)

    def problem(self, ref: str) -> str:
        """What is damaged: the log ``ref`` or any object; empty where all is well."""
        if self.resolve(ref) is None:
            return f"{self.path} lost {ref}"
        argv = ("fsck", "--no-progress", "--no-dangling")
        done = git(*argv, cwd=self.path, env=self._env, check=False)
        if done.returncode == 0:
            return ""
        said = (done.stderr + done.stdout).decode(errors="replace").strip().splitlines()
        return f"{self.path}: {said[0] if said else 'git fsck failed'}"

    def complete(self, commit: str) -> bool:
        """Whether a commit and all of its files can be read."""
        argv = ("rev-list", "--objects", "--no-walk", "--quiet", commit)
        return git(*argv, cwd=self.path, env=self._env, check=False).returncode == 0

    def has(self, oid: str) -> bool:
        """Whether an object is there."""
        try:
            self.read(oid)
        except StoreError:
            return False
        return True

    def forget(self, oid: str) -> None:
        """Remove a loose object, such as a commit whose files are lost."""
        (self.path / "objects" / oid[:2] / oid[2:]).unlink(missing_ok=True)

    def salvage(self, other: Path) -> None:
        """Take over every object of another store that still is what its name says."""
        for file in other.glob("objects/[0-9a-f][0-9a-f]/*"):
            name = f"{file.parent.name}{file.name}"
            try:
                data = zlib.decompress(file.read_bytes())
            except (OSError, zlib.error):
                continue
            if hashlib.sha1(data, usedforsecurity=False).hexdigest() == name:
                target = self.path / "objects" / file.parent.name / file.name
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(zlib.compress(data))
        for pack in other.glob("objects/pack/*.pack"):
            argv = ("unpack-objects", "-q", "-r")
            git(*argv, cwd=self.path, env=self._env, stdin=pack.read_bytes(), check=False)

    def close(self) -> None:
        """End the reading process."""
        if self._reader is not None:
            assert self._reader.stdin is not None
            self._reader.stdin.close()
            self._reader.wait()
            self._reader = None

    def _git(self, *argv: str, stdin: bytes = b"") -> bytes:
        if not self.path.is_dir():
            raise StoreError(f"{self.path} is missing")
        return git(*argv, cwd=self.path, env=self._env, stdin=stdin).stdout

    # Reading

    def tree(self, commit: str) -> dict[str, Entry]:
        """All files of a commit by path."""
        if commit not in self._trees:
            if len(self._trees) > 64:
                self._trees.clear()
            found = {}
            for line in self._git("ls-tree", "-r", "-z", commit).split(b"\0")[:-1]:
                head, _, path = line.partition(b"\t")
                mode, _, oid = head.decode().split(" ")
                found[os.fsdecode(path)] = Entry(mode, oid)
            self._trees[commit] = found
        return self._trees[commit]

    def read(self, oid: str) -> bytes:
        """The bytes of a blob or commit."""
        if (known := self._blobs.get(oid)) is not None:
            return known
        if (found := self._look_up(oid)) is None:
            raise StoreError(f"{self.path}: object {oid} is missing")
        _, data = found
        if len(data) <= CACHED_BLOB_BYTES:
            if self._cached > CACHE_BYTES:
                self._blobs.clear()
                self._cached = 0
            self._blobs[oid] = data
            self._cached += len(data)
        return data

    def _look_up(self, name: str) -> tuple[str, bytes] | None:
        """The object that a ref or an object's own name stands for, if it is there."""
        head = self._ask(name) or self._ask(name)  # twice: somebody may have killed the reader
        if len(head) != 3:
            return None
        assert self._reader is not None and self._reader.stdout is not None
        data = self._reader.stdout.read(int(head[2]))
        self._reader.stdout.read(1)
        return head[0].decode(), data

    def _ask(self, name: str) -> list[bytes]:
        """The reading process's first line about an object; empty where the process was dead."""
        if self._reader is None:
            self._reader = subprocess.Popen(
                ["git", "cat-file", "--batch"],
                cwd=self.path,
                env=self._env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        assert self._reader.stdin is not None and self._reader.stdout is not None
        try:
            self._reader.stdin.write(f"{name}\n".encode())
            self._reader.stdin.flush()
            head = self._reader.stdout.readline().split()
        except BrokenPipeError:
            head = []
        if not head:
            self._reader.kill()
            self._reader.wait()
            self._reader = None
        return head

    def export(
        self, commit: str, target: Path, *, without: Callable[[str], bool] = lambda _: False
    ) -> None:
        """Write a commit's files below ``target``, byte for byte; submodules stay empty."""
        folders: set[Path] = set()
        for path, entry in self.tree(commit).items():
            if without(path):
                continue
            file = target / path
            if file.parent not in folders:
                file.parent.mkdir(parents=True, exist_ok=True)
                folders.add(file.parent)
            if entry.mode == SUBMODULE:
                file.mkdir(exist_ok=True)
            elif entry.mode == LINK:
                file.symlink_to(os.fsdecode(self.read(entry.oid)))
            else:
                file.write_bytes(self.read(entry.oid))
                if entry.mode == EXECUTABLE:
                    file.chmod(0o755)

    def bundle(
        self, commit: str, target: Path, *, beyond: str | None = None,
        without: Callable[[str], bool] = lambda _: False,
    ) -> None:  # fmt: skip
        """Write a git bundle of a commit's files, but for some, and of no history.

        ``beyond`` is a commit whose own bundle is where this one will be read: then this one holds
        only what that one does not. Of equal files equal bundles are made, and the store is only
        read.
        """
        with tempfile.TemporaryDirectory(prefix="autoresearch-bundle-") as folder:
            scratch, env = Path(folder), environment() | _configured({"pack.threads": "1"})
            git("init", "--quiet", "--bare", NO_TEMPLATE, folder, cwd=scratch, env=env)
            objects = (self.path / "objects").absolute()
            (scratch / "objects" / "info" / "alternates").write_bytes(os.fsencode(objects) + b"\n")
            made: list[str] = []
            for each in filter(None, (beyond, commit)):
                cut = {os.fsencode(path): None for path in self.tree(each) if without(path)}
                tree = loose.graft(scratch, self.read, self._tree(each), cut)
                made.append(loose.commit(scratch, tree, made, f"{IDENTITY} 0 +0000", ""))
            *before, last = made
            loose.move(scratch, BUNDLED, last)
            argv = ("bundle", "create", "--quiet", str(target.absolute()), BUNDLED)
            git(*argv, *(f"^{each}" for each in before), cwd=scratch, env=env)

    def resolve(self, ref: str) -> str | None:
        """The commit that a ref names, or None where it or the commit is missing."""
        found = self._look_up(ref) if self.path.is_dir() else None
        return found[0] if found else None

    def length(self, ref: str) -> int | None:
        """How many commits lie along the first parents of ``ref``; None where it is unreadable."""
        if self.resolve(ref) is None:
            return None
        argv = ("rev-list", "--count", "--first-parent", ref)
        done = git(*argv, cwd=self.path, env=self._env, check=False)
        return int(done.stdout) if done.returncode == 0 else None

    def _tree(self, commit: str) -> str:
        return self.read(commit).split(b"\n", 1)[0].removeprefix(b"tree ").decode()

    def message(self, commit: str) -> str:
        """What a commit says."""
        return self.read(commit).partition(b"\n\n")[2].decode(errors="replace").strip()

    def history(self, ref: str) -> list[tuple[str, str]]:
        """Commits and messages along the first parents of ``ref``, newest first."""
        out = self._git("log", "--first-parent", "-z", "--format=%H%n%B", ref)
        found = []
        for record in out.split(b"\0"):
            if record:
                commit, _, message = record.decode(errors="replace").partition("\n")
                found.append((commit, message.strip()))
        return found

    def diff(self, old: str, new: str) -> str:
        """The change between two commits as a patch, without the help of any configuration."""
        argv = ("diff-tree", "-p", "--no-ext-diff", "--no-textconv", "--no-color", old, new)
        return self._git(*argv).decode(errors="replace")

    def lines_changed(self, old: str, new: str) -> dict[str, tuple[int, int]]:
        """Lines added and removed by path."""
        out = self._git("diff-tree", "-r", "-z", "--numstat", "--no-renames", old, new)
        found = {}
        for record in out.split(b"\0")[:-1]:
            added, removed, path = record.split(b"\t", 2)
            found[os.fsdecode(path)] = (int(added) if added != b"-" else 0,
                                        int(removed) if removed != b"-" else 0)  # fmt: skip
        return found

    def merge(self, ours: bytes, base: bytes, theirs: bytes) -> bytes | None:
        """Both changes of a text since ``base``, or None where they touch the same lines."""
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder, name) for name in ("ours", "base", "theirs")]
            for file, data in zip(files, (ours, base, theirs), strict=True):
                file.write_bytes(data)
            argv = ("merge-file", "-p", "--quiet", *map(str, files))
            done = git(*argv, cwd=Path(folder), env=self._env, check=False)
        return done.stdout if done.returncode == 0 else None

    # Writing

    def seal(
        self,
        parent: str,
        changes: Edits,
        message: str,
        ref: str,
    ) -> str:
        """Commit ``changes`` (path to mode and bytes, None deletes) on top of ``parent``."""
        with self._writing():
            edits = {
                os.fsencode(path): change
                and (change[0].encode(), loose.put(self.path, "blob", change[1]))
                for path, change in changes.items()
            }
            tree = loose.graft(self.path, self.read, self._tree(parent), edits)
            commit = self._commit(ref, message, [parent], tree)
        failpoint("store.sealed")
        self._trees[commit] = dict(self.tree(parent))
        for path, change in changes.items():
            if change is None:
                del self._trees[commit][path]
            else:
                self._trees[commit][path] = Entry(change[0], blob_oid(change[1]))
        return commit

    def begin_log(self, ref: str, message: str) -> str:
        """Start a log of commits with an entry that has no parent and no files."""
        with self._writing():
            tree = loose.put(self.path, "tree", b"")
            commit = self._commit(ref, message, [], tree)
        failpoint("log.begun")
        return commit

    def append(self, ref: str, last: str, other: str, message: str) -> str:
        """Add an entry to a log of commits: first parent the last entry, second ``other``."""
        with self._writing():
            commit = self._commit(ref, message, [last, other], loose.NO_FILES)
        failpoint("log.appended")
        return commit

    def _commit(self, ref: str, message: str, parents: Sequence[str], tree: str) -> str:
        who = f"{IDENTITY} {int(time.time())} +0000"
        made = loose.commit(self.path, tree, parents, who, message)
        loose.move(self.path, ref, made)
        return made

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn what the disk refuses into an error that says so, and leave no draft behind."""
        try:
            with disk.named(self.path):
                yield
        except (OSError, StoreError) as error:
            self.clear_leftovers()
            if isinstance(error, OSError):
                raise StoreError(
                    f"{self.path} cannot be written: {error}",
                    fix="look after the disk; then autoresearch run continues where it was",
                ) from error
            raise

    def adopt(self, repository: Path, commit: str) -> None:
        """Copy one commit of the person's repository, its files but not its history."""
        env = environment()
        listed = git(
            "rev-list", "--objects", "--no-walk", commit, cwd=repository, env=_trusting(env)
        ).stdout
        names = b"".join(line.split(b" ", 1)[0] + b"\n" for line in listed.splitlines())
        pack = git(
            "pack-objects", "--quiet", "--stdout", cwd=repository, env=_trusting(env), stdin=names
        )
        (self.path / SHALLOW).write_text(f"{commit}\n")
        self._git("unpack-objects", "-q", stdin=pack.stdout)
        failpoint("store.adopted")

    def adopt_since(self, repository: Path, commit: str, base: str) -> None:
        """Copy a commit of the person's repository with what lies between it and ``base``."""
        wanted = f"{commit}\n^{base}\n".encode()
        argv = ("pack-objects", "--quiet", "--revs", "--stdout")
        env = _trusting(environment())
        pack = git(*argv, cwd=repository, env=env, stdin=wanted, check=False)
        if pack.returncode == 0:
            self._git("unpack-objects", "-q", stdin=pack.stdout)

    def deliver(self, repository: Path, commit: str, branch: str, before: str | None) -> None:
        """Advance ``branch`` of the person's repository to ``commit``, hooks off, nothing else.

        ``before`` is what we last put there (None: the branch must not exist).

        Raises:
            UserError: the branch was moved by somebody else, or is checked out.
        """
        env = _trusting(environment())
        now = branch_commit(repository, branch)
        if now == commit:
            return
        if now != before:
            raise UserError(f"branch {branch} was moved by somebody else")
        if now is not None and f"refs/heads/{branch}" in _checked_out(repository):
            raise UserError(f"branch {branch} is checked out")
        base = (self.path / SHALLOW).read_text().split()
        wanted = "\n".join([commit, *(f"^{each}" for each in base)]) + "\n"
        pack = self._git("pack-objects", "--quiet", "--revs", "--stdout", stdin=wanted.encode())
        git("unpack-objects", "-q", cwd=repository, env=env, stdin=pack)
        failpoint("branch.packed")
        argv = ("-c", f"core.hooksPath={os.devnull}", "update-ref", "--create-reflog")
        git(*argv, f"refs/heads/{branch}", commit, before or "0" * 40, cwd=repository, env=env)
        failpoint("branch.moved")


def clear_branch_lock(repository: Path, branch: str) -> None:
    """Remove the lock that our own killed delivery left on our branch of a person's repository."""
    argv = ("rev-parse", "--git-path", f"refs/heads/{branch}.lock")
    found = git(*argv, cwd=repository, env=_trusting(environment())).stdout
    (repository / os.fsdecode(found.rstrip(b"\n"))).unlink(missing_ok=True)


def _configured(values: Mapping[str, str]) -> dict[str, str]:
    env = {"GIT_CONFIG_COUNT": str(len(values))}
    for i, (key, value) in enumerate(values.items()):
        env |= {f"GIT_CONFIG_KEY_{i}": key, f"GIT_CONFIG_VALUE_{i}": value}
    return env


def _trusting(env: dict[str, str]) -> dict[str, str]:
    # The repository is the person's own; git's ownership check would stop root in a container.
    return env | _configured({"safe.directory": "*"})


def _checked_out(repository: Path) -> set[str]:
    out = git("worktree", "list", "--porcelain", cwd=repository, env=_trusting(environment()))
    return set(re.findall(r"^branch (\S+)$", out.stdout.decode(errors="replace"), re.M))


def branch_commit(repository: Path, branch: str) -> str | None:
    """Where a branch of the person's repository is, or None."""
    done = git(
        "rev-parse", "--verify", "--quiet", f"refs/heads/{branch}",
        cwd=repository, env=_trusting(environment()), check=False,
    )  # fmt: skip
    return done.stdout.decode().strip() or None


def repository_root(folder: Path) -> Path:
    """The top of the person's repository that holds ``folder``.

    Raises:
        UserError: it is not in a git repository with at least one commit.
    """
    env = _trusting(environment())
    done = git("rev-parse", "--show-toplevel", cwd=folder, env=env, check=False)
    if done.returncode != 0:
        raise UserError(
            f"{folder} is not in a git repository",
            fix='git init && git add -A && git commit -m "Start"',
        )
    return Path(os.fsdecode(done.stdout.rstrip(b"\n")))


def head(repository: Path) -> str:
    """The commit that is checked out.

    Raises:
        UserError: there is no commit yet.
    """
    env = _trusting(environment())
    done = git("rev-parse", "--verify", "--quiet", "HEAD^{commit}", cwd=repository, env=env,
               check=False)  # fmt: skip
    if done.returncode != 0:
        raise UserError(
            f"{repository} has no commit yet", fix='git add -A && git commit -m "Start"'
        )
    return done.stdout.decode().strip()


def uncommitted(repository: Path) -> set[str]:
    """Paths that differ from HEAD or are not tracked, relative to the repository."""
    env = _trusting(environment())
    # diff-index without a refreshed index would also name files that were only touched; the index
    # is the person's and stays as it is, so we compare content instead.
    changed = git("diff", "--name-only", "-z", "HEAD", "--", cwd=repository, env=env).stdout
    return {os.fsdecode(path) for path in changed.split(b"\0")[:-1]} | untracked(repository)


def untracked(repository: Path) -> set[str]:
    """Paths that are neither tracked nor ignored, relative to the repository."""
    argv = ("ls-files", "-z", "--others", "--exclude-standard")
    found = git(*argv, cwd=repository, env=_trusting(environment())).stdout
    return {os.fsdecode(path) for path in found.split(b"\0")[:-1]}


def files(repository: Path) -> list[str]:
    """Tracked files and new ones that are not ignored, relative to the repository."""
    argv = ("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    out = git(*argv, cwd=repository, env=_trusting(environment())).stdout
    return sorted({os.fsdecode(path) for path in out.split(b"\0")[:-1]})


def exclude(repository: Path, pattern: str) -> None:
    """Make git ignore ``pattern`` in this clone only, without touching a tracked file."""
    env = _trusting(environment())
    found = git("rev-parse", "--git-path", "info/exclude", cwd=repository, env=env).stdout
    file = repository / os.fsdecode(found.rstrip(b"\n"))
    text = file.read_text() if file.is_file() else ""
    if pattern not in text.splitlines():
        file.parent.mkdir(parents=True, exist_ok=True)
        # Only added to: on a full disk the person's lines must stay.
        with file.open("a") as end:
            end.write(f"{pattern}\n" if not text or text.endswith("\n") else f"\n{pattern}\n")


def apply_patch(folder: Path, patch: Path) -> str | None:
    """Apply a patch to a plain folder; returns why it does not fit, None when it did."""
    env = environment() | {"GIT_CEILING_DIRECTORIES": str(folder.resolve().parent)}
    argv = ("apply", "--whitespace=nowarn", str(patch.resolve()))
    done = git(*argv, cwd=folder, env=env, check=False)
    if done.returncode == 0:
        return None
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return said[-1] if said else f"git apply ended with {done.returncode}"


def merge_lines(ours: str, base: str, theirs: str) -> str | None:
    """Three-way merge of texts by lines; None where the two changes overlap."""
    with tempfile.TemporaryDirectory(prefix="autoresearch-merge-") as folder:
        names = ("ours", "base", "theirs")
        for name, text in zip(names, (ours, base, theirs), strict=True):
            (Path(folder) / name).write_text(text, encoding="utf-8", newline="")
        argv = ("merge-file", "--quiet", "--stdout", *names)
        done = git(*argv, cwd=Path(folder), env=environment(), check=False)
    return done.stdout.decode() if done.returncode == 0 else None


def disposable_repository(folder: Path, ignored: str) -> None:
    """A throw-away repository with one commit, for agents that expect to be in one.

    ``ignored`` is a pattern of what is shown in it and belongs to no change.
    """
    env = environment() | _configured({"maintenance.auto": "false"}) | {
        "GIT_AUTHOR_NAME": "autoresearch", "GIT_AUTHOR_EMAIL": "autoresearch@localhost",
        "GIT_COMMITTER_NAME": "autoresearch", "GIT_COMMITTER_EMAIL": "autoresearch@localhost",
    }  # fmt: skip
    git("init", "--quiet", NO_TEMPLATE, cwd=folder, env=env)
    git("add", "--all", cwd=folder, env=env)
    git("commit", "--quiet", "--message", "Parent of this experiment", cwd=folder, env=env)
    (folder / ".git" / "info").mkdir(exist_ok=True)
    (folder / ".git" / "info" / "exclude").write_text(f"{ignored}\n")
