"""``autoresearch demo``: what it copies, and what it asks for."""

from __future__ import annotations

import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from autoresearch import config
from autoresearch.cli.demo import SHARED, prepare


@pytest.mark.parametrize(
    ("workload", "module", "extra"),
    [("tinylm", "numpy", "demo"), ("tinygpt", "torch", "gpt")],
)
def test_a_workload_without_its_library_names_the_extra(
    tmp_path: Path, workload: str, module: str, extra: str
) -> None:
    code = f"import sys; sys.modules[{module!r}] = None\nfrom autoresearch.cli import main; main()"
    words = ("demo", "--workload", workload, "there")
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"the workload {workload} needs " in done.stderr and module in done.stderr
    assert f"pip install 'autoresearch[{extra}]'" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("workload", ["tinylm", "tinygpt", "latency", "service"])
def test_what_is_copied_is_a_whole_task(tmp_path: Path, workload: str) -> None:
    prepare(workload, tmp_path)
    contract = config.load(tmp_path / "autoresearch.toml")
    commands = (contract.run.command, contract.run.setup, contract.metric.evaluate)
    for command in filter(None, commands):
        assert (tmp_path / command[1]).is_file()


def test_tinygpt_has_the_data_and_the_scorer_of_tinylm(tmp_path: Path) -> None:
    owner, names = SHARED["tinygpt"]
    prepare("tinygpt", tmp_path)
    source = resources.files("autoresearch") / "workloads"
    for name in names:
        assert (tmp_path / name).read_bytes() == (source / owner / name).read_bytes()
        assert not (source / "tinygpt" / name).is_file(), "one source of truth"
