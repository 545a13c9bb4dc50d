"""Directories that hostile code was let into: made afresh, and removed whatever it left there."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

OURS = 0o700


def remove(folder: Path) -> None:
    """Delete a directory and all below it: of any depth, with any name, mode or kind.

    ``shutil.rmtree`` gives up on a tower of a thousand folders, and paths in it are longer than
    the system takes. So folders are lifted to the top one by one: no path ever has more than two
    parts below ``folder``. Only for directories that no other process writes to any more.
    """
    if folder.is_symlink() or not folder.is_dir():
        folder.unlink(missing_ok=True)
        return
    # A name that whoever filled the directory cannot have taken.
    name, lifted = secrets.token_hex(8), 0
    while waiting := _open(folder):
        for entry in waiting:
            if not entry.is_dir(follow_symlinks=False):
                Path(entry.path).unlink()
                continue
            for inner in _open(Path(entry.path)):
                if inner.is_dir(follow_symlinks=False):
                    # A folder that may not be written cannot be moved: its parent changes.
                    Path(inner.path).chmod(OURS)
                    lifted += 1
                    Path(inner.path).rename(folder / f"{name}-{lifted}")
                else:
                    Path(inner.path).unlink()
            Path(entry.path).rmdir()
    folder.rmdir()


def _open(folder: Path) -> list[os.DirEntry[str]]:
    folder.chmod(OURS)
    with os.scandir(folder) as entries:
        return list(entries)


def fresh(folder: Path) -> Path:
    """An empty directory, whatever was there before."""
    remove(folder)
    folder.mkdir(parents=True)
    return folder
