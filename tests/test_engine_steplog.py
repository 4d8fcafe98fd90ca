"""The step log: what is written of steps and of sequences that end, and what is read again."""

from pathlib import Path

import pytest

from prelude.engine.steplog import RequestRecord, StepLog, StepRecord, read_step_log
from tests.engines import Clock, make_core, request


def run_logged(path: Path) -> list[StepRecord | RequestRecord]:
    clock = Clock()
    core = make_core(clock=clock, log=StepLog(path))
    core.add(request([1, 2, 3], uid=7, max_tokens=3, ignore_eos=True))
    core.add(request([4] * 9, uid=8, max_tokens=5, ignore_eos=True))
    while core.has_work:
        core.step()
    core.close()
    return list(read_step_log(path))


def test_every_sequence_that_ends_is_written_down_once(tmp_path: Path) -> None:
    records = run_logged(tmp_path / "steps.jsonl")
    ended = {r.uid: r for r in records if isinstance(r, RequestRecord)}
    assert {uid: (r.num_prompt, r.num_output) for uid, r in ended.items()} == {7: (3, 3), 8: (9, 5)}
    assert {r.finish_reason for r in ended.values()} == {"length"}
    assert [r.max_tokens for r in ended.values()] == [3, 5]


def test_steps_and_requests_tell_the_same_times(tmp_path: Path) -> None:
    records = run_logged(tmp_path / "steps.jsonl")
    steps = [r for r in records if isinstance(r, StepRecord)]
    ends_s = [
        s.start_s + (sum(x.actual_ms for x in s.launches) + s.overhead_ms) / 1e3 for s in steps
    ]
    for ended in (r for r in records if isinstance(r, RequestRecord)):
        assert ended.first_token_s is not None
        assert ended.arrival_s <= ended.first_token_s <= ended.end_s
        assert ended.end_s == pytest.approx(
            max(
                end_s
                for end_s, step in zip(ends_s, steps, strict=True)
                if any(row[0] == ended.seq_id for x in step.launches for row in x.rows)
            )
        )


def test_an_aborted_request_is_written_down_too(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    core = make_core(log=StepLog(path))
    core.add(request([1, 2], uid=1, max_tokens=9))
    core.abort(1)
    core.close()
    (ended,) = read_step_log(path)
    assert isinstance(ended, RequestRecord)
    assert (ended.finish_reason, ended.num_output, ended.first_token_s) == ("abort", 0, None)


def test_a_full_disk_ends_the_log_and_not_the_engine(caplog: pytest.LogCaptureFixture) -> None:
    log = StepLog(Path("/dev/full"))
    core = make_core(log=log)
    core.add(request([1, 2], uid=1, max_tokens=4))
    events = [event for _ in range(8) for event in core.step()]
    assert events[-1].finish_reason == "length"
    assert len(list(log)) > 1
    assert caplog.text.count("the step log ends here: [Errno 28] No space left") == 1
    core.close()


def test_without_a_file_only_steps_are_kept() -> None:
    log = StepLog()
    core = make_core(log=log)
    core.add(request([1, 2], max_tokens=2, ignore_eos=True))
    while core.has_work:
        core.step()
    assert [type(record) for record in log] == [StepRecord, StepRecord]
    assert log.last is not None and log.last.num_running == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"step":1}', "line 1: no record"),
        (b"not JSON", "line 1: no record"),
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_bytes(line + b"\n")
    with pytest.raises(ValueError, match=message):
        list(read_step_log(path))


def test_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    run_logged(path)
    path.write_bytes(path.read_bytes().replace(b'"version":2', b'"version":9'))
    with pytest.raises(ValueError, match="version 9 is not supported"):
        list(read_step_log(path))
