"""Room on the run's disk: how much must be left before work starts, and a reserve to say so.

The reserve is a file of a fixed size. When the disk is full it is given up, so that what was being
written and the pause itself still reach the journal; work goes on when it could be made again.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from .errors import DiskFullError, StoreError

RESERVE_BYTES = 16 << 20
SHARE = 16
FREE_INODES = 256
FULL = (errno.ENOSPC, errno.EDQUOT)
BROKEN = (errno.EIO, errno.EROFS)


class Reserve:
    """A file that is worth nothing but its place; ``path`` is in the run's directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        disk = os.statvfs(path.parent)
        # A sixteenth of a small disk: a reserve that fills it would be no help.
        self.size = min(RESERVE_BYTES, disk.f_blocks * disk.f_frsize // SHARE)
        self._held = False

    def require(self) -> None:
        """Hold the reserve, and see that there is as much room again.

        Raises:
            DiskFullError: there is not.
        """
        try:
            if not self._held:
                self._hold()
            disk = os.statvfs(self.path.parent)
        except OSError as error:
            self.release()
            if error.errno not in FULL:
                raise
            raise DiskFullError(self._said("no room")) from error
        if disk.f_files and disk.f_favail < FREE_INODES:
            raise DiskFullError(self._said("no room for new files"))
        if (free := disk.f_bavail * disk.f_frsize) < self.size // 4:
            raise DiskFullError(self._said(f"{free / 2**20:.1f} MiB left"))

    def _hold(self) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, self.size)
            else:
                os.write(descriptor, bytes(self.size))
        finally:
            os.close(descriptor)
        self._held = True

    def release(self) -> None:
        """Give the place back."""
        self._held = False
        self.path.unlink(missing_ok=True)

    def _said(self, left: str) -> str:
        return f"disk full: {left} where {self.path.parent} is"


@contextlib.contextmanager
def named(folder: Path) -> Iterator[None]:
    """Turn what the disk below ``folder`` refused into an error that says so.

    Raises:
        DiskFullError: no room was left.
        StoreError: the disk failed, or became read-only.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise DiskFullError(f"disk full: no room where {folder} is") from error
        if error.errno in BROKEN:
            place = error.filename or folder
            raise StoreError(
                f"{place}: {error.strerror}",
                fix="look after the disk; then autoresearch run continues where it was",
            ) from error
        raise


def sync_directory(path: Path) -> None:
    """Make names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
