"""Makes English sentences with numbers, dates, times and prices: written, spoken, and tagged.

The demo's sentences the other way round: digits in, words out. Nothing is downloaded. For each part
there are three parallel files: `train.written` ("the shop opens on March 3, 2003"), `train.spoken` ("...
on March third, two thousand and three") and `train.tags`, a tag for each word that is written
("O O O O B-DATE I-DATE I-DATE"). What a number is, its sentence says: 1984 is said in one way as a year
and in another as a count. No written sentence of the test set stands in training or validation.

    python scripts/make_number_corpus.py --output data/numbers
"""

import argparse
import datetime
import os
import random
from collections.abc import Callable
from pathlib import Path

import make_demo_corpus as demo
from babel import dates, numbers
from num2words import num2words

SIZES = {"train": 12_000, "valid": 500, "test": 1_000}

# Sentences that have a second one behind them, after "and".
JOINED_SHARE = 0.3

CURRENCIES = {
    "USD": ("dollar", "dollars", "cent", "cents"),
    "GBP": ("pound", "pounds", "penny", "pence"),
    "EUR": ("euro", "euros", "cent", "cents"),
}
UNITS = ("kilometers", "meters", "kilograms", "grams", "liters")

Slot = tuple[str, str]  # written and spoken


def _words(number: int, kind: str = "cardinal") -> str:
    spoken: str = num2words(number, lang="en", to=kind)
    return spoken.replace(",", "")


def cardinal(rng: random.Random) -> Slot:
    number = rng.randint(2, rng.choice([99, 999, 9_999]))
    return rng.choice([str(number), f"{number:,}"]), _words(number)


def ordinal(rng: random.Random) -> Slot:
    number = rng.randint(1, 199)
    return num2words(number, lang="en", to="ordinal_num"), _words(number, "ordinal")


def year(rng: random.Random) -> Slot:
    number = rng.choice([rng.randint(1500, 1999), rng.randint(2001, 2039)])
    return str(number), _words(number, "year")


def _said(day: datetime.date) -> str:
    return f"{day:%B} {_words(day.day, 'ordinal')}, {_words(day.year, 'year')}"


def date(rng: random.Random) -> Slot:
    day = datetime.date(1950, 1, 1) + datetime.timedelta(days=rng.randrange(36_500))
    return dates.format_date(day, "long", locale="en_US"), _said(day)


def weekday_date(rng: random.Random) -> Slot:
    day = datetime.date(1950, 1, 1) + datetime.timedelta(days=rng.randrange(36_500))
    return dates.format_date(day, "full", locale="en_US"), f"{day:%A}, {_said(day)}"


def clock(rng: random.Random) -> Slot:
    hour, minute, half = rng.randint(1, 12), rng.randrange(60), rng.choice(["AM", "PM"])
    minutes = f"{'oh ' if 0 < minute < 10 else ''}{_words(minute)} " if minute else ""
    return f"{hour}:{minute:02} {half}", f"{_words(hour)} {minutes}{half}"


def price(rng: random.Random) -> Slot:
    amount = rng.randint(1, rng.choice([9_999, 999_999]))
    currency = rng.choice(sorted(CURRENCIES))
    one, more, one_cent, cents = CURRENCIES[currency]
    whole, rest = divmod(amount, 100)
    parts = [f"{_words(whole)} {one if whole == 1 else more}"] if whole else []
    parts += [f"{_words(rest)} {one_cent if rest == 1 else cents}"] if rest else []
    written = numbers.format_currency(amount / 100, currency, locale="en_US")
    return written, " and ".join(parts)


def quantity(rng: random.Random) -> Slot:
    unit = rng.choice(UNITS)
    if rng.random() < 0.5:
        number = rng.randint(2, 999)
        return f"{number} {unit}", f"{_words(number)} {unit}"
    whole, tenth = rng.randint(1, 99), rng.randint(1, 9)
    return f"{whole}.{tenth} {unit}", f"{_words(whole)} point {_words(tenth)} {unit}"


# The demo's kinds by name: what is made here in their place, and its tag.
MAKERS: dict[str, tuple[Callable[[random.Random], Slot], str]] = {
    "cardinal": (cardinal, "NUMBER"),
    "ordinal": (ordinal, "ORDINAL"),
    "year": (year, "DATE"),
    "date": (date, "DATE"),
    "weekday_date": (weekday_date, "DATE"),
    "clock": (clock, "TIME"),
    "price": (price, "PRICE"),
    "quantity": (quantity, "QUANTITY"),
}
KINDS = tuple(kind for kind in demo.KINDS if kind.make.__name__ in MAKERS)


def clause(rng: random.Random) -> tuple[str, str, list[str]]:
    """Returns what is written, what is said, and the tag of each word that is written."""
    kind = rng.choices(KINDS, weights=[kind.share for kind in KINDS])[0]
    make, tag = MAKERS[kind.make.__name__]
    written, spoken = make(rng)
    frame = rng.choice(kind.frames)[0]
    before, after = frame.split("{}")
    tags = ["O"] * len(before.split()) + [f"B-{tag}"]
    tags += [f"I-{tag}"] * (len(written.split()) - 1) + ["O"] * len(after.split())
    return frame.format(written), frame.format(spoken), tags


def sentence(rng: random.Random) -> tuple[str, str, str]:
    """Returns a sentence: written, spoken, tagged."""
    written, spoken, tags = clause(rng)
    if rng.random() < JOINED_SHARE:
        more = clause(rng)
        written, spoken = f"{written} and {more[0]}", f"{spoken} and {more[1]}"
        tags = [*tags, "O", *more[2]]
    return written, spoken, " ".join(tags)


def make_splits(seed: int, sizes: dict[str, int]) -> dict[str, list[tuple[str, str, str]]]:
    """Returns different sentences for each part."""
    rng = random.Random(seed)
    found: dict[str, tuple[str, str, str]] = {}
    while len(found) < sum(sizes.values()):
        made = sentence(rng)
        if found.setdefault(made[0], made) != made:
            raise AssertionError(f"two ways to say one sentence: {made[0]}")
    remaining = iter(found.values())
    return {name: [next(remaining) for _ in range(size)] for name, size in sizes.items()}


def write(folder: Path, splits: dict[str, list[tuple[str, str, str]]]) -> None:
    """Writes the files, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        for column, kind in enumerate(("written", "spoken", "tags")):
            unfinished = folder / f".tmp-{os.getpid()}"
            unfinished.write_text("".join(f"{row[column]}\n" for row in rows), encoding="utf-8")
            os.replace(unfinished, folder / f"{name}.{kind}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("data/numbers"), metavar="DIR")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    splits = make_splits(args.seed, SIZES)
    write(args.output, splits)
    counts = ", ".join(f"{len(rows):,} {name}" for name, rows in splits.items())
    print(f"{args.output}: {counts} sentences")


if __name__ == "__main__":
    main()
