"""Clusters that the tests start themselves; one of a kind for all tests of a worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.executors.cluster import Cluster, MissingError, cluster


@pytest.fixture(scope="session")
def _slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    try:
        with cluster(tmp_path_factory.mktemp("slurm")) as made:
            yield made
    except MissingError as error:
        pytest.skip(str(error))


@pytest.fixture
def slurm(_slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A real Slurm; the commands that a test starts talk to it."""
    for name, value in _slurm.commands.items():
        monkeypatch.setenv(name, value)
    return _slurm
