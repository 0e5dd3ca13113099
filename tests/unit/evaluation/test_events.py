"""metrics.jsonl as a report reads it."""

import json
from pathlib import Path

import pytest

from nmt import errors
from nmt.evaluation import events

LINES = [
    {"event": "train", "update": 5, "loss": 3.5, "learning_rate": 0.1},
    {"event": "validation", "update": 5, "bleu": 1.5, "is_best": True},
    {"event": "rollback", "update": 7, "to_update": 5},
    {"event": "train", "update": 10, "loss": 2.5},
]


def write(folder: Path, *lines: str | dict, end: str = "\n") -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / events.NAME).write_text("\n".join(texts) + end)
    return folder


def test_events_come_by_kind_and_their_numbers_as_series(tmp_path):
    found = events.read(write(tmp_path, *LINES))
    assert found.series("train", "loss") == [(5.0, 3.5), (10.0, 2.5)]
    assert found.series("train", "learning_rate") == [(5.0, 0.1)]
    assert found.series("validation", "bleu") == [(5.0, 1.5)]
    assert found.series("validation", "is_best") == [], "a yes is no number"
    assert found.others == [LINES[2]]


def test_a_torn_last_line_is_passed_over_and_said(tmp_path, caplog):
    found = events.read(write(tmp_path, *LINES, '{"event": "train", "upd', end=""))
    assert len(found.train) == 2
    assert caplog.messages == [
        f"{tmp_path / events.NAME}:5: the last line is torn and is passed over"
    ]


@pytest.mark.parametrize("line", ['{"event": "train", "upd', "[1]", '{"event": "train"}', ""])
def test_a_torn_line_inside_is_named(tmp_path, line):
    write(tmp_path, LINES[0], line, LINES[1])
    with pytest.raises(errors.DataError, match=r"metrics\.jsonl:2: is no event"):
        events.read(tmp_path)


def test_a_run_without_events_or_without_the_file_is_one_line(tmp_path):
    with pytest.raises(errors.FileError, match=r"metrics\.jsonl"):
        events.read(tmp_path)
    write(tmp_path, LINES[2])
    with pytest.raises(errors.DataError, match="holds no event yet"):
        events.read(tmp_path)


def test_numbers_that_are_not_finite_are_no_part_of_a_series(tmp_path):
    lines = [
        f'{{"event": "validation", "update": {number}, "bleu": {value}}}\n'
        for number, value in enumerate(["NaN", "1.5", "Infinity", "null"], start=1)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    assert events.read(tmp_path).series("validation", "bleu") == [(2.0, 1.5)]
