"""A bar on a terminal, a line now and then elsewhere, nothing where quiet is wanted."""

import io
import logging
import types
from collections.abc import Iterator

import pytest

from nmt.training import reporting

NUMBERS = {"loss": 2.34567, "perplexity": 8.126, "tokens_per_second": 12345.6, "epoch": 3.0}


class Terminal(io.StringIO):
    """A stream that says that somebody looks at it."""

    def isatty(self) -> bool:
        return True


class Clock:
    """Stands for the time module; time passes only where a test lets it."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(reporting, "time", clock)
    return clock


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[types.SimpleNamespace]:
    with caplog.at_level(logging.INFO, logger="nmt.training.reporting"):
        yield types.SimpleNamespace(get=lambda: [record.getMessage() for record in caplog.records])


def make(stream: io.StringIO, *, quiet: bool = False, done: int = 0) -> reporting.Reporter:
    return reporting.Reporter(stream, 100, done, quiet=quiet)


def test_elsewhere_the_numbers_are_a_line_of_the_log(
    lines: types.SimpleNamespace, clock: Clock
) -> None:
    stream = io.StringIO()
    reporter = make(stream)
    reporter.advance()
    reporter.show(50, NUMBERS, 3725.4)
    reporter.close()
    assert lines.get() == ["update 50  epoch 3  loss 2.346  ppl 8.13  12,346 tok/s  left 1:02:05"]
    assert stream.getvalue() == ""


def test_lines_come_no_closer_together_than_the_limit(
    lines: types.SimpleNamespace, clock: Clock
) -> None:
    reporter = make(io.StringIO())
    limit = reporting.SECONDS_BETWEEN_LINES
    assert limit >= 1.0
    shown = []
    for number, seconds in enumerate([0.0, 0.5, limit - 0.1, limit, limit + 1, 2 * limit + 0.1]):
        clock.now = 1000.0 + seconds
        before = len(lines.get())
        reporter.show(number, NUMBERS, None)
        if len(lines.get()) > before:
            shown.append(number)
    assert shown == [0, 3, 5]


def test_a_terminal_shows_a_bar_and_no_lines(lines: types.SimpleNamespace) -> None:
    stream = Terminal()
    reporter = make(stream, done=40)
    reporter.advance()
    reporter.show(41, NUMBERS, 59.6)
    reporter.close()
    shown = stream.getvalue()
    assert "41/100" in shown
    assert "loss 2.346  ppl 8.13  12,346 tok/s  left 1:00" in shown
    assert lines.get() == []


def test_a_closed_bar_ends_its_line() -> None:
    stream = Terminal()
    reporter = make(stream)
    assert not stream.getvalue().endswith("\n")
    reporter.close()
    assert stream.getvalue().endswith("\n")


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_quiet_shows_nothing(lines: types.SimpleNamespace, stream: io.StringIO) -> None:
    reporter = make(stream, quiet=True)
    reporter.advance()
    reporter.show(50, NUMBERS, 10.0)
    reporter.close()
    assert stream.getvalue() == ""
    assert lines.get() == []


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "?"), (0.0, "0:00"), (59.4, "0:59"), (61.0, "1:01"), (3599.7, "1:00:00")],
)
def test_time_left_is_a_clock_or_unknown(
    lines: types.SimpleNamespace, clock: Clock, seconds: float | None, shown: str
) -> None:
    make(io.StringIO()).show(1, NUMBERS, seconds)
    assert lines.get()[0].endswith(f"left {shown}")


def test_a_run_of_unknown_length_has_a_bar_too() -> None:
    stream = Terminal()
    reporter = reporting.Reporter(stream, None, 7, quiet=False)
    reporter.close()
    assert "7upd" in stream.getvalue()


def test_messages_stand_above_the_bar_and_not_within_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    root = logging.getLogger("nmt")
    handler = logging.StreamHandler(stream)
    root.addHandler(handler)
    before = list(root.handlers)
    try:
        reporter = make(stream)
        root.warning("a message")
        assert "\ra message\n" in stream.getvalue().replace(" ", "").replace(
            "amessage", "a message"
        )
        reporter.close()
        assert root.handlers == before
    finally:
        root.removeHandler(handler)
