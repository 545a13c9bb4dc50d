"""How many tests fail: read from what a test runner printed, so that no test can get lost.

Used where a contract has no metric. Pure: knows the formats of four runners, starts none of them.
The code under test shares a process with its runner and could forge all that is read here
(docs/until-pass.md); what is held is that a test that is skipped, deselected, no longer collected
or cut short never looks better than one that fails.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import PurePath

from .types import Suite, Tally

NAME = "failing"
# What a file or package that cannot be loaded counts: it may hold any number of tests, and to load
# it is progress, however many of them then fail.
UNLOADED = 1000
# Usual names of tests and of what steers their runners.
PROTECTED = (
    "test/", "tests/", "__tests__/", "testdata/",
    "test_*.py", "*_test.py", "tests.py", "conftest.py",
    "pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml", "pyproject.toml", "tox.ini",
    "setup.cfg",
    "*_test.go", "go.mod", "go.work",
    "Cargo.toml", ".cargo/",
    "*.test.*", "*.spec.*", "__mocks__/", "jest.config.*", "jest.setup.*", "package.json",
)  # fmt: skip
# What makes a runner stop at the first failure, so that nobody knows how many there are.
STOPS = {
    "pytest": r"-[lqsv]*x[lqsv]*|--exitfirst|--maxfail(=.*)?|--stepwise|--sw",
    "go": r"--?failfast(=.*)?",
    "jest": r"--bail(=.*)?|-b",
}
COLOR = re.compile(r"\x1b\[[0-9;]*m")
CUT = re.compile(r"^\[\.\.\. \d+ bytes left out \.\.\.\]$", re.MULTILINE)


def runner(command: Sequence[str]) -> str:
    """The known runner that a command starts, also through ``uv run`` or a shell; else empty."""
    words = [PurePath(word.strip("'\"();&")).name for word in " ".join(command).split()]
    for name in ("pytest", "py.test", "jest"):
        if name in words:
            return "jest" if name == "jest" else "pytest"
    for word, after in pairwise(words):
        if after == "test" and word in ("go", "cargo"):
            return word
    return ""


def stops_early(command: Sequence[str]) -> str:
    """What keeps a known runner from running all tests, as the words that mend it; else empty."""
    name = runner(command)
    words = " ".join(command).split()
    if name == "cargo":
        return "" if "--no-fail-fast" in words else "add --no-fail-fast"
    found = next((word for word in words if name and re.fullmatch(STOPS[name], word)), "")
    return f"leave out {found}" if found else ""


def variables(suite: Suite, env: Mapping[str, str]) -> dict[str, str]:
    """What makes a known runner run every test that it can, on top of the contract's ``env``."""
    if suite.runner != "pytest":
        return {}
    options = "--continue-on-collection-errors --maxfail=0"
    return {"PYTEST_ADDOPTS": f"{env.get('PYTEST_ADDOPTS', '')} {options}".strip()}


def failing(
    suite: Suite, text: str, exit_code: int | None, known: Tally | None
) -> tuple[int, Tally]:
    """How many tests fail, 0 only for a pass, and what was counted.

    ``known`` is what the baseline ran: all of it must pass, and no more be skipped.

    Raises:
        ValueError: the tests did not run to their end, or their number cannot be known.
    """
    text = COLOR.sub("", text)
    ok = exit_code == 0
    if suite.expect_failing is not None:
        tally = _by_pattern(suite.expect_failing, _whole(text), ok)
    elif suite.runner:
        tally = RUNNERS[suite.runner](_whole(text))
        idle = tally.passed == tally.failed == tally.errors == 0
        if idle and not tally.unloaded:
            raise ValueError(f"{suite.runner} ran no test")
    else:
        tally = Tally(failed=0 if ok else 1)
    count = tally.failed + tally.errors + UNLOADED * tally.unloaded + _lost(tally, known)
    if suite.expect is not None:
        tally = replace(tally, expected=last(suite.expect, text))
        least = known.expected if known else None
        if tally.expected is None or (least is not None and tally.expected < least):
            count = max(1, count)
    # An error that no test stands for, such as too little coverage.
    return (count if ok else max(1, count)), tally


def explain(tally: Tally, known: Tally | None) -> str:
    """What besides failures went into the number, in words; empty where nothing did."""
    parts = []
    if tally.unloaded:
        parts.append(f"{tally.unloaded} could not be loaded and count {UNLOADED} each")
    if lost := _lost(tally, known):
        parts.append(f"{lost} that the baseline ran did not run")
    return ", ".join(parts)


def least(tallies: Sequence[Tally]) -> Tally | None:
    """What later runs are held to: all that the baseline's runs have run."""
    if not tallies:
        return None
    passed = [each.passed for each in tallies]
    ran = [_ran(each) for each in tallies]
    expected = [each.expected for each in tallies if each.expected is not None]
    return Tally(
        passed=None if None in passed else max(ran),
        skipped=max(each.skipped for each in tallies),
        expected=min(expected, default=None),
    )


def last(pattern: str, text: str) -> float | None:
    """The number in a pattern's group, where it matches last."""
    found = re.findall(pattern, text, re.MULTILINE)
    try:
        return float(found[-1]) if found else None
    except ValueError:
        return None


def _lost(tally: Tally, known: Tally | None) -> int:
    """Tests that are skipped or missing, though the baseline ran them."""
    if known is None:
        return 0
    skipped = max(0, tally.skipped - known.skipped)
    if known.passed is None or tally.passed is None:
        return skipped
    return max(skipped, _ran(known) - _ran(tally))


def _ran(tally: Tally) -> int:
    return (tally.passed or 0) + tally.failed


def _whole(text: str) -> str:
    if CUT.search(text):
        raise ValueError("it printed too much to count its tests; let it print less")
    return text


def _by_pattern(pattern: str, text: str, ok: bool) -> Tally:
    """The sum of all matches, so that printing one more only adds."""
    found = re.findall(pattern, text, re.MULTILINE)
    if not found and not ok:
        raise ValueError(f"it failed, and {pattern!r} is not in its log")
    try:
        return Tally(failed=sum(int(each) for each in found))
    except ValueError:
        raise ValueError(f"{pattern!r} matched what is not a whole number") from None


# What the four print. Where there are several summaries they add up: a forged one changes nothing
# for the better.


def _pytest(text: str) -> Tally:
    """``2 failed, 3 passed, 1 error in 0.12s``, bare or between equals signs."""
    counts: dict[str, int] = {}
    lines = re.findall(
        r"^=*[ ]?((?:\d+ [a-z ]+, )*\d+ [a-z ]+|no tests ran) in [\d.]+s"
        r"(?: \([\d:, a-z]+\))?[ ]?=*$",
        text,
        re.MULTILINE,
    )
    if not lines:
        raise ValueError("pytest printed no summary: it ended early, or has too many -q")
    for line in lines:
        for number, kind in re.findall(r"(\d+) ([a-z ]+)", line):
            counts[kind] = counts.get(kind, 0) + int(number)
    # A file is named, not a test in it.
    files = set(re.findall(r"^ERROR ((?:(?!::)\S)+)(?: - .*)?$", text, re.MULTILINE))
    errors = counts.get("error", 0) + counts.get("errors", 0)
    unloaded = min(len(files), errors)
    return Tally(
        passed=counts.get("passed", 0) + counts.get("xpassed", 0),
        failed=counts.get("failed", 0),
        errors=errors - unloaded + counts.get("subtests failed", 0),
        skipped=sum(counts.get(kind, 0) for kind in ("skipped", "deselected", "xfailed")),
        unloaded=unloaded,
    )


def _go(text: str) -> Tally:
    """``--- FAIL: TestX``, ``ok package 0.1s``, ``FAIL package [build failed]``; passes with -v."""
    marks = re.findall(r"^[ \t]*--- (PASS|FAIL|SKIP): \S", text, re.MULTILINE)
    packages = re.findall(r"^(ok|FAIL)[ \t]+\S+[ \t]+(.*)$", text, re.MULTILINE)
    if not packages:
        raise ValueError("go test printed no result of a package")
    # What panics takes the tests after it along.
    broken = len(re.findall(r"^(?:panic|fatal error): ", text, re.MULTILINE))
    broken += sum("[build failed]" in said or "[setup failed]" in said for _, said in packages)
    failed = marks.count("FAIL")
    if failed + broken == 0:
        broken = sum(word == "FAIL" for word, _ in packages)
    verbose = re.search(r"^=== RUN ", text, re.MULTILINE)
    if not verbose and broken + failed == 0 and all("no tests" in said for _, said in packages):
        raise ValueError("go ran no test")
    return Tally(
        # Else a package's "ok" stands for tests that nobody counts.
        passed=marks.count("PASS") if verbose else None,
        failed=failed,
        skipped=marks.count("SKIP"),
        unloaded=broken,
    )


def _cargo(text: str) -> Tally:
    """``test result: FAILED. 3 passed; 2 failed; 1 ignored; ...``, one for each binary."""
    results = re.findall(
        r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored; \d+ measured;"
        r" (\d+) filtered out",
        text,
        re.MULTILINE,
    )
    begun = len(re.findall(r"^running \d+ tests?$", text, re.MULTILINE))
    broken = len(set(re.findall(r"^error: could not compile `([^`]+)`", text, re.MULTILINE)))
    if not results and not begun and not broken:
        raise ValueError("cargo test printed no result")
    numbers = [[int(each) for each in result] for result in results]
    passed, failed, ignored, filtered = (sum(row[i] for row in numbers) for i in range(4))
    # A binary that began and gave no result ended early.
    return Tally(passed, failed, 0, ignored + filtered, broken + max(0, begun - len(results)))


def _jest(text: str) -> Tally:
    """``Tests:       1 failed, 1 skipped, 3 passed, 5 total``."""
    lines = re.findall(r"^Tests:[ \t]+(.*\d+ total)$", text, re.MULTILINE)
    if not lines:
        raise ValueError("jest printed no summary")
    counts: dict[str, int] = {}
    for number, kind in re.findall(r"(\d+) ([a-z]+)", ", ".join(lines)):
        counts[kind] = counts.get(kind, 0) + int(number)
    return Tally(
        passed=counts.get("passed", 0),
        failed=counts.get("failed", 0),
        skipped=sum(counts.get(kind, 0) for kind in ("skipped", "pending", "todo")),
        unloaded=len(re.findall(r"^[ \t]*● Test suite failed to run$", text, re.MULTILINE)),
    )


RUNNERS: dict[str, Callable[[str], Tally]] = {
    "pytest": _pytest,
    "go": _go,
    "cargo": _cargo,
    "jest": _jest,
}
