"""The choice of a precision: the rule, and how it is measured, with made-up translators and time."""

import pytest

from nmt.inference import optimizing, outcomes

SOURCES = [f"line {number} of some words" for number in range(300)]


def _measured(**figures):
    return [
        optimizing.Measurement(name, bleu, "sig", speed) for name, (bleu, speed) in figures.items()
    ]


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({"fp32": (38.0, 100), "bf16": (38.0, 150), "int8": (37.9, 200)}, "int8"),
        ({"fp32": (38.0, 100), "bf16": (37.8, 150), "int8": (37.79, 200)}, "bf16"),  # 0.2 is kept
        ({"fp32": (38.0, 100), "bf16": (37.7, 150), "int8": (30.0, 200)}, "fp32"),
        ({"fp32": (38.0, 100), "bf16": (38.0, 90), "int8": (39.0, 80)}, "fp32"),
        ({"fp32": (38.0, 100), "bf16": (38.0, 150), "int8": (41.0, 160)}, "int8"),  # better is no loss
        ({"bf16": (38.0, 150), "fp32": (38.3, 100)}, "fp32"),  # held against fp32, wherever it stands
        ({"fp32": (38.0, 100)}, "fp32"),
    ],
)  # fmt: skip
def test_the_fastest_that_loses_at_most_two_tenths_is_chosen(figures, expected):
    assert optimizing.choose(_measured(**figures)).name == expected


def test_a_loss_is_rounded_as_it_is_printed():
    figures = {"fp32": (38.0, 1), "int8": (38.0 - 0.2 - 1e-9, 2)}
    assert optimizing.choose(_measured(**figures)).name == "int8"


class _Clock:
    """A clock that a translator moves on."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def _translator(clock, calls, name, *, seconds, text):
    def translate(lines):
        calls.append((name, len(lines)))
        clock.now += seconds * len(lines)
        return [
            [outcomes.Translation(text(line), tokens=(5,) * 9), outcomes.Translation("worse")]
            for line in lines
        ]

    return translate


def test_ways_take_turns_and_are_measured_apart():
    clock, calls = _Clock(), []
    ways = {
        "fp32": _translator(clock, calls, "fp32", seconds=0.5, text=str),
        "int8": _translator(clock, calls, "int8", seconds=0.1, text=lambda line: f"x {line[4:]}"),
    }
    plain, rounded = optimizing.measure(ways, SOURCES, SOURCES, clock=clock)
    assert (plain.name, rounded.name) == ("fp32", "int8")
    assert plain.bleu == pytest.approx(100.0)
    assert 20.0 < rounded.bleu < 99.0
    assert "tok:13a" in plain.signature
    # Ten tokens a line, EOS among them; the first turn, in which things are set up, is not counted.
    assert plain.tokens_per_second == pytest.approx(10 / 0.5)
    assert rounded.tokens_per_second == pytest.approx(10 / 0.1)
    assert calls == [
        ("fp32", 128), ("int8", 128),
        ("fp32", 128), ("int8", 128),
        ("int8", 128), ("fp32", 128),
        ("fp32", 44), ("int8", 44),
    ]  # fmt: skip


def test_the_table_marks_the_choice():
    measured = _measured(fp32=(38.04, 1234.4), int8=(37.96, 23456.0))
    assert optimizing.table(measured, measured[1]) == [
        "precision    BLEU   tokens/s",
        "fp32        38.04      1,234",
        "int8        37.96     23,456  <- chosen",
    ]
