"""What is distilled from the history of a run: true, useful, and never larger."""

from __future__ import annotations

from autoresearch.journal.view import Experiment, Role, Taken
from autoresearch.lessons import CAUSES_KEPT, WORDS_KEPT, Lessons, reason, topics
from autoresearch.types import Decision, Kind, Metric, Outcome, Sample, Status


def experiment(
    number: int,
    description: str,
    status: Status,
    gain: float | None = None,
    *,
    told: str = "",
    reason: str = "",
    hypothesis: str = "",
    tokens_added: int = 0,
) -> Experiment:
    value = None if gain is None else 1.0 - gain
    outcome = Outcome.CRASH if status is Status.CRASH else Outcome.OK
    sample = Sample("c" * 40, 1, outcome, value, reason, told=told)
    return Experiment(
        number, Kind.TUNE if "->" in description else Kind.IMPROVE, "p" * 40,
        description=description, hypothesis=hypothesis, commit=f"{number:040x}", was=1.0,
        tokens_added=tokens_added, taken=[Taken(0, Role.SCREEN, sample)],
        decision=Decision(status, reason, value),
    )  # fmt: skip


def lessons_of(*found: Experiment) -> Lessons:
    lessons = Lessons(Metric("loss"))
    lessons.follow(found)
    lessons.follow(found)
    return lessons


def test_topics_moves_and_sizes() -> None:
    found = [
        *(experiment(i, f"LR 0.{i} -> 0.{i + 1}", Status.DISCARD, -0.01) for i in range(1, 5)),
        experiment(5, "LR 0.5 -> 0.2", Status.KEEP, 0.1),
        experiment(6, "LR 0.2 -> 0.1", Status.KEEP, 0.2),
        experiment(7, "LR 0.1 -> 0.05", Status.DISCARD, -0.3),
        *(experiment(i, "add dropout", Status.DISCARD, -0.02, tokens_added=80) for i in (8, 9, 10)),
        *(experiment(i, "double width", Status.CRASH, told="exit code 1: OOM") for i in (11, 12)),
        experiment(13, "width 3 -> 4", Status.TIMEOUT, reason="killed after 9 s"),
        experiment(14, "nothing", Status.REJECTED, reason="no change"),
    ]
    said = lessons_of(*found).lines()
    start = "in all: 13 tried, 2 kept, 3 crashed or ran out of time, at best 0.2 better, on average"
    assert said[0].startswith(start) and said[0].endswith("1 more were rejected and never ran")
    assert "LR raised: 4 tried, none kept, at best 0.01 worse, on average 0.01 worse" in said
    lowered = "LR lowered: 3 tried, 2 kept, at best 0.2 better, on average"
    assert any(line.startswith(lowered) for line in said)
    brought = '"dropout" brought nothing yet: 3 tried, none kept, at best 0.02 worse'
    assert any(line.startswith(brought) for line in said)
    assert '"width" tends to fail: 3 tried, none kept, 3 crashed or ran out of time' in said
    assert any(line.startswith("adding more than 50 tokens of code: 3 tried") for line in said)


def test_crashes_are_counted_by_their_cause_with_advice() -> None:
    lessons = lessons_of(
        experiment(1, "wider", Status.CRASH, told="used 3.20 GiB of 2.00"),
        experiment(2, "wider still", Status.CRASH, told="used 4.1 GiB of 2.00"),
        experiment(3, "rename", Status.CRASH, told="exit code 1: NameError: x"),
        experiment(4, "deeper", Status.TIMEOUT, reason="used 9 s of 5.5 s; allowed are ..."),
    )
    said = lessons.failures(10)
    assert said[0] == ("2x used 4.1 GiB of 2.00 (#1, #2; last: wider still): use less memory")
    assert len(said) == 3
    assert any("do less in one run" in line for line in said)
    assert any("read your change once more" in line for line in said)


def test_why_it_crashed_is_told_without_what_an_evaluation_said() -> None:
    hidden = "evaluation failed: exit code 1: the answer is blue"
    crash = experiment(1, "x", Status.CRASH, told="its evaluation failed", reason=hidden)
    assert reason(crash) == "its evaluation failed"
    old = experiment(1, "x", Status.CRASH, told="", reason=hidden)
    assert reason(old) == "crashed"
    lessons = lessons_of(crash, old)
    assert "blue" not in "".join([*lessons.lines(), *lessons.failures(9)])


def test_misses_begin_anew_with_a_keep_and_a_plateau_is_named() -> None:
    lessons = Lessons(Metric("loss"))
    for i in range(1, 40):
        lessons.add(experiment(i, "try", Status.DISCARD, -i / 100))
    assert [each.number for _, _, each in sorted(lessons.misses, reverse=True)] == [*range(1, 11)]
    assert any("none of the last 39 was kept" in line for line in lessons.lines())
    lessons.add(experiment(40, "try", Status.KEEP, 0.1))
    assert lessons.misses == [] and lessons.since_keep == 0
    assert not any("none of the last" in line for line in lessons.lines())


def test_ideas_that_never_got_a_value_stay_open() -> None:
    lessons = lessons_of(
        experiment(1, "a", Status.CRASH, hypothesis="wider is better", told="OOM"),
        experiment(2, "b", Status.DISCARD, -0.1, hypothesis="deeper is better"),
    )
    assert [each.hypothesis for each in lessons.untried] == ["wider is better"]


def test_they_do_not_grow_with_the_run() -> None:
    lessons, sizes = Lessons(Metric("loss")), []
    for i in range(1, 6001):
        crash = i % 3 == 0
        words = " ".join(f"word{i}_{k}" for k in range(40))
        text = f"{['lr', 'width', 'dropout'][i % 3]} NAME{i} 0.1 -> 0.2 {words}"
        letters = "".join(chr(97 + digit % 26) for digit in (i, i // 26, i // 676))
        cause = f"exit code 1: {letters} broke"
        lessons.add(
            experiment(i, text, Status.CRASH, told=cause)
            if crash
            else experiment(i, text, Status.DISCARD, 1 / i, hypothesis="x" * 1000)
        )
        if i in (60, 6000):
            sizes.append(len("".join([*lessons.lines(), *lessons.failures(20)])))
    assert len(lessons.topics) <= WORDS_KEPT + 12 and len(lessons.moves) <= WORDS_KEPT + 1
    assert len(lessons.causes) <= CAUSES_KEPT
    assert sizes[1] < 1.5 * sizes[0]
    assert lessons.topics["lr"].tried == 2000, "what is tried often is never forgotten"


def test_topics_leave_common_words_out() -> None:
    assert topics("Increase the LR to 0.04 and use MATRIX_LR for width") == [
        "lr", "matrix_lr", "width",
    ]  # fmt: skip
    assert len(topics(" ".join(f"w{i}x" for i in range(100)))) == 12
