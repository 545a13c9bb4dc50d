"""What four test runners print, and that no test can get lost on the way to a pass."""

from __future__ import annotations

import pytest

from autoresearch import suite
from autoresearch.types import Suite, Tally

PYTEST, GO, CARGO, JEST = (Suite(name) for name in ("pytest", "go", "cargo", "jest"))

# As pytest 9.2 printed it, with --continue-on-collection-errors; shortened.
BROKEN_FILE = """\
.FsxE.E                                                                  [100%]
_______________________ ERROR collecting tests/test_b.py _______________________
E   ModuleNotFoundError: No module named 'nothere'
___________________________ ERROR at setup of test_e ___________________________
E   RuntimeError: no
=========================== short test summary info ============================
FAILED tests/test_a.py::test_two - assert 2 == 3
ERROR tests/test_b.py
ERROR tests/test_a.py::test_e - RuntimeError: no
ERROR tests/test_a.py::test_t - RuntimeError: later
1 failed, 2 passed, 1 skipped, 1 xfailed, 3 errors in 2.42s
"""
# As cargo 1.95 printed it; shortened.
CARGO_FAILS = """\
     Running unittests src/lib.rs (target/debug/deps/c-d4fd4905425e6bfe)

running 3 tests
test tests::slow ... ignored
test tests::zero ... ok
test tests::adds ... FAILED

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.28s

error: test failed, to rerun pass `--lib`
     Running tests/it.rs (target/debug/deps/it-0d34b73b358d2779)

running 1 test
test outside ... ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s

   Doc-tests c

running 0 tests

test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s

error: 1 target failed:
    `--lib`
"""
CARGO_BUILD = """\
   Compiling c v0.1.0 (/home/me/c)
error: expected expression, found `}`
 --> src/lib.rs:1:42

error: could not compile `c` (lib) due to 1 previous error
warning: build failed, waiting for other jobs to finish...
error: could not compile `c` (lib test) due to 1 previous error
"""
CARGO_ENDED = CARGO_FAILS[: CARGO_FAILS.index("test result")] + "\nrunning 0 tests\n"
# The formats that `go test` and `jest` document; neither was run here.
GO_QUIET = """\
--- FAIL: TestAdd (0.00s)
    --- FAIL: TestAdd/negative (0.00s)
        calc_test.go:12: got 1, want -1
FAIL
FAIL\texample.org/calc\t0.004s
ok  \texample.org/calc/units\t0.002s
?   \texample.org/calc/cmd\t[no test files]
FAIL
"""
GO_VERBOSE = """\
=== RUN   TestAdd
--- PASS: TestAdd (0.00s)
=== RUN   TestMul
    calc_test.go:20: not yet
--- SKIP: TestMul (0.00s)
PASS
ok  \texample.org/calc\t0.004s
"""
GO_BUILD = """\
# example.org/calc [example.org/calc.test]
./calc.go:4:9: undefined: missing
FAIL\texample.org/calc [build failed]
ok  \texample.org/calc/units\t0.002s
FAIL
"""
GO_PANIC = """\
--- FAIL: TestAdd (0.00s)
panic: runtime error: index out of range [3] with length 3 [recovered]
\tpanic: runtime error: index out of range [3] with length 3

goroutine 18 [running]:
FAIL\texample.org/calc\t0.006s
FAIL
"""
GO_ALL = "ok  \texample.org/calc\t0.004s\nok  \texample.org/calc/units\t(cached)\n"
JEST_FAILS = """\
PASS src/units.test.js
FAIL src/calc.test.js
  ● adds

    expect(received).toBe(expected) // Object.is equality

FAIL src/broken.test.js
  ● Test suite failed to run

    Cannot find module './missing' from 'src/broken.test.js'

Test Suites: 2 failed, 1 passed, 3 total
Tests:       1 failed, 1 skipped, 1 todo, 3 passed, 6 total
Snapshots:   0 total
Time:        0.41 s
Ran all test suites.
"""


def count(tests: Suite, text: str, code: int, known: Tally | None = None) -> int:
    return suite.failing(tests, text, code, known)[0]


@pytest.mark.parametrize(
    ("tests", "text", "tally"),
    [
        (PYTEST, BROKEN_FILE, Tally(2, 1, 2, 2, 1)),
        (PYTEST, "== 2 failed, 3 passed, 1 warning in 61.20s (0:01:01) ==\n", Tally(3, 2)),
        (PYTEST, "\x1b[32m\x1b[1m3 passed\x1b[0m\x1b[32m in 0.01s\x1b[0m\n", Tally(3)),
        (PYTEST, "1 passed, 2 deselected, 1 xpassed in 0.01s\n", Tally(2, skipped=2)),
        (PYTEST, "1 failed, 3 passed, 2 subtests failed in 1.3s\n", Tally(3, 1, 2)),
        (CARGO, CARGO_FAILS, Tally(2, 1, 0, 1)),
        (CARGO, CARGO_BUILD, Tally(0, 0, 0, 0, 1)),
        (CARGO, CARGO_ENDED, Tally(0, 0, 0, 0, 2)),
        (GO, GO_QUIET, Tally(None, 2)),
        (GO, GO_VERBOSE, Tally(1, 0, 0, 1)),
        (GO, GO_BUILD, Tally(None, 0, 0, 0, 1)),
        (GO, GO_PANIC, Tally(None, 1, 0, 0, 1)),
        (JEST, JEST_FAILS, Tally(3, 1, 0, 2, 1)),
    ],
)
def test_what_a_runner_says(tests: Suite, text: str, tally: Tally) -> None:
    assert suite.failing(tests, text, 1, None)[1] == tally


@pytest.mark.parametrize(
    ("tests", "text"),
    [
        (PYTEST, "3 passed in 0.01s\n"),
        (PYTEST, "2 passed, 1 skipped in 0.01s\n"),
        (GO, GO_ALL),
        (GO, GO_VERBOSE),
        (CARGO, CARGO_FAILS.replace("1 failed", "0 failed")),
        (JEST, "Tests:       3 passed, 3 total\n"),
        (Suite(""), "whatever\n"),
    ],
)
def test_a_pass_needs_the_exit_code_too(tests: Suite, text: str) -> None:
    assert [count(tests, text, code) for code in (0, 1)] == [0, 1]


@pytest.mark.parametrize(
    ("tests", "text"),
    [
        (PYTEST, ""),
        (PYTEST, "no tests ran in 0.01s\n"),
        (PYTEST, "3 skipped in 0.01s\n"),
        (PYTEST, "6 deselected in 2.88s\n"),
        (GO, ""),
        (GO, "ok  \texample.org/calc\t0.004s [no tests to run]\n"),
        (CARGO, ""),
        (CARGO, "running 0 tests\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured;"
                " 0 filtered out; finished in 0.00s\n"),
        (JEST, "No tests found, exiting with code 0\n"),
        (PYTEST, "FAILED a::b\n[... 12345 bytes left out ...]\n3 passed in 0.01s\n"),
        (Suite("", None, r"= (\S+) failed"), "= some failed\n"),
    ],
)  # fmt: skip
def test_what_did_not_run_to_its_end_has_no_number(tests: Suite, text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        count(tests, text, 0)


def test_a_pattern_of_ones_own() -> None:
    tests = Suite("", None, r"(\d+) failed")
    assert count(tests, "all fine\n", 0) == 0
    assert count(tests, "a: 2 failed\nb: 3 failed\n", 1) == 5


def test_a_failure_without_the_pattern_has_no_number() -> None:
    with pytest.raises(ValueError, match="is not in its log"):
        count(Suite("", None, r"(\d+) failed"), "Segmentation fault\n", 1)


KNOWN = suite.least([Tally(passed=3, failed=2, errors=1, skipped=1)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2 failed, 3 passed, 1 skipped in 0.1s\n", 2),
        ("1 failed, 4 passed, 1 skipped in 0.1s\n", 1),
        ("5 passed, 1 skipped in 0.1s\n", 0),
        ("6 passed in 0.1s\n", 0),
        # Skipped, deselected, expected to fail, no longer collected: as good as failing.
        ("3 passed, 3 skipped in 0.1s\n", 2),
        ("3 passed, 1 skipped, 2 deselected in 0.1s\n", 2),
        ("4 passed, 1 skipped, 1 xfailed in 0.1s\n", 1),
        ("3 passed, 1 skipped in 0.1s\n", 2),
        # One more that passes does not make up for one more that is skipped.
        ("5 passed, 2 skipped in 0.1s\n", 1),
        ("ERROR tests/test_a.py\n1 error in 0.1s\n", 1005),
        # A second summary adds to the first.
        ("2 failed, 3 passed, 1 skipped in 0.1s\n5 passed, 1 skipped in 0.1s\n", 3),
    ],
)
def test_what_the_baseline_ran_must_run(text: str, expected: int) -> None:
    assert count(PYTEST, text, 0, KNOWN) == expected


def test_loading_is_progress_however_many_tests_then_fail() -> None:
    two = "ERROR tests/test_a.py\nERROR tests/test_b.py - No module named 'x::y'\n2 errors in 1s\n"
    one = "ERROR tests/test_b.py\n30 failed, 1 error in 1s\n"
    none = "60 failed, 1 passed in 1s\n"
    known = suite.least([suite.failing(PYTEST, two, 1, None)[1]])
    counts = [count(PYTEST, text, 1, known) for text in (two, one, none)]
    assert counts == [2000, 1030, 60]


def test_an_exit_code_overrules_a_count_and_expect_both() -> None:
    assert count(PYTEST, "3 passed in 0.1s\n", 1) == 1
    tests = Suite("", r"(\d+) fine")
    assert count(tests, "", 0) == 1
    known = suite.least([Tally(expected=3), Tally(expected=2)])
    assert [count(tests, f"{n} fine\n", 0, known) for n in (1, 2, 3)] == [1, 0, 0]


def test_what_went_into_the_number_is_said() -> None:
    said = suite.explain(Tally(passed=1, unloaded=2), Tally(passed=3))
    assert said == "2 could not be loaded and count 1000 each, 2 that the baseline ran did not run"
    assert suite.explain(Tally(passed=3, failed=1), Tally(passed=3)) == ""


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("pytest -q", "pytest"),
        ("python -m pytest", "pytest"),
        ("uv run .venv/bin/pytest tests", "pytest"),
        ("bash -c 'cd src && pytest -q'", "pytest"),
        ("go test ./...", "go"),
        ("cargo test --no-fail-fast", "cargo"),
        ("npx jest --ci", "jest"),
        ("npm test", ""),
        ("cargo build", ""),
        ("python test.py --pytest", ""),
    ],
)
def test_known_runners(command: str, name: str) -> None:
    assert suite.runner(command.split()) == name


@pytest.mark.parametrize(
    ("command", "mend"),
    [
        ("pytest -x", "leave out -x"),
        ("pytest -qx", "leave out -qx"),
        ("pytest --maxfail=3", "leave out --maxfail=3"),
        ("pytest -rx -k x", ""),
        ("cargo test", "add --no-fail-fast"),
        ("cargo test --no-fail-fast", ""),
        ("go test -failfast ./...", "leave out -failfast"),
        ("jest --bail", "leave out --bail"),
        ("make -x", ""),
    ],
)
def test_what_stops_at_the_first_failure(command: str, mend: str) -> None:
    assert suite.stops_early(command.split()) == mend
