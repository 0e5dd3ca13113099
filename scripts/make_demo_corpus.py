"""Makes an English-German corpus of numbers, dates, times, prices and quantities in sentences.

Nothing is downloaded: num2words and Babel know both languages. A source line has one translation,
and no source line of the test set stands in training or validation.

    python scripts/make_demo_corpus.py --output data/demo
"""

import argparse
import dataclasses
import datetime
import os
import random
from collections.abc import Callable
from pathlib import Path

import num2words
from babel import dates, numbers, units

SIZES = {"train": 12_000, "valid": 500, "test": 1_000}


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of expression and the sentences that it stands in, at `{}`."""

    make: Callable[[random.Random], tuple[str, str]]
    frames: tuple[tuple[str, str], ...]
    share: int


def _plain(text: str) -> str:
    """Babel writes narrow and non-breaking spaces; people type plain ones."""
    return " ".join(text.replace("\u202f", " ").replace("\xa0", " ").split())


def cardinal(rng: random.Random) -> tuple[str, str]:
    number = rng.randint(2, rng.choice([99, 999, 9_999]))
    english = num2words.num2words(number, lang="en")
    return english.replace(",", ""), num2words.num2words(number, lang="de")


def ordinal(rng: random.Random) -> tuple[str, str]:
    number = rng.randint(1, 199)
    english = num2words.num2words(number, lang="en", to="ordinal")
    return english, num2words.num2words(number, lang="de", to="ordinal")


def year(rng: random.Random) -> tuple[str, str]:
    number = rng.choice([rng.randint(1500, 1999), rng.randint(2001, 2039)])
    english = num2words.num2words(number, lang="en", to="year")
    return english, num2words.num2words(number, lang="de", to="year")


def _day(rng: random.Random) -> datetime.date:
    return datetime.date(1950, 1, 1) + datetime.timedelta(days=rng.randrange(36_500))


def date(rng: random.Random) -> tuple[str, str]:
    day = _day(rng)
    english, german = (dates.format_date(day, "long", locale=name) for name in ("en_US", "de_DE"))
    return _plain(english), _plain(german)


def weekday_date(rng: random.Random) -> tuple[str, str]:
    day = _day(rng)
    english, german = (dates.format_date(day, "full", locale=name) for name in ("en_US", "de_DE"))
    return _plain(english), _plain(german)


def clock(rng: random.Random) -> tuple[str, str]:
    time = datetime.time(rng.randrange(24), rng.randrange(60))
    english, german = (dates.format_time(time, "short", locale=name) for name in ("en_US", "de_DE"))
    return _plain(english), _plain(german)


def spoken_time(rng: random.Random) -> tuple[str, str]:
    hour = rng.randint(1, 12)
    this, following = (num2words.num2words(h) for h in (hour, hour % 12 + 1))
    # Before "Uhr" one says "ein", elsewhere "eins".
    hour_de, following_de = (num2words.num2words(h, lang="de") for h in (hour, hour % 12 + 1))
    return rng.choice(
        [
            (f"{this} o'clock", f"{'ein' if hour == 1 else hour_de} Uhr"),
            (f"a quarter past {this}", f"Viertel nach {hour_de}"),
            (f"half past {this}", f"halb {following_de}"),
            (f"a quarter to {following}", f"Viertel vor {following_de}"),
            (f"ten past {this}", f"zehn nach {hour_de}"),
            (f"five to {following}", f"fünf vor {following_de}"),
        ]
    )


def price(rng: random.Random) -> tuple[str, str]:
    amount = rng.randint(1, rng.choice([9_999, 999_999])) / 100
    currency = rng.choice(["EUR", "USD", "GBP"])
    english, german = (
        numbers.format_currency(amount, currency, locale=name) for name in ("en_US", "de_DE")
    )
    return _plain(english), _plain(german)


def quantity(rng: random.Random) -> tuple[str, str]:
    amount = rng.choice([rng.randint(2, 999), rng.randint(11, 999) / 10])
    unit = rng.choice(
        ["length-kilometer", "length-meter", "mass-kilogram", "mass-gram", "volume-liter"]
    )
    english, german = (
        units.format_unit(amount, unit, length="long", locale=name) for name in ("en_US", "de_DE")
    )
    return _plain(english), _plain(german)


KINDS = (
    Kind(
        cardinal,
        (
            ("we counted {} birds", "wir zählten {} Vögel"),
            ("the library has {} books", "die Bibliothek hat {} Bücher"),
            ("{} people live in this village", "{} Menschen leben in diesem Dorf"),
            ("she sold {} tickets", "sie verkaufte {} Karten"),
            ("there were {} chairs in the hall", "in der Halle standen {} Stühle"),
            ("he has planted {} trees", "er hat {} Bäume gepflanzt"),
            ("the farmer owns {} cows", "der Bauer besitzt {} Kühe"),
        ),
        share=6,
    ),
    Kind(
        ordinal,
        (
            ("this is the {} day", "das ist der {} Tag"),
            ("the {} runner was very tired", "der {} Läufer war sehr müde"),
            ("today is her {} birthday", "heute ist ihr {}r Geburtstag"),
            ("the {} visitor gets a cake", "der {} Besucher bekommt einen Kuchen"),
            ("the {} page is missing", "die {} Seite fehlt"),
        ),
        share=2,
    ),
    Kind(
        year,
        (
            ("she was born in {}", "sie wurde {} geboren"),
            ("the bridge was built in {}", "die Brücke wurde {} gebaut"),
            ("in {} the war was over", "{} war der Krieg vorbei"),
            ("the company was founded in {}", "die Firma wurde {} gegründet"),
            ("he moved to Berlin in {}", "er zog {} nach Berlin"),
        ),
        share=3,
    ),
    Kind(
        date,
        (
            ("the meeting is on {}", "die Sitzung ist am {}"),
            ("the shop opens on {}", "der Laden öffnet am {}"),
            ("they married on {}", "sie heirateten am {}"),
            ("the letter came on {}", "der Brief kam am {}"),
            ("her son was born on {}", "ihr Sohn wurde am {} geboren"),
        ),
        share=3,
    ),
    Kind(
        weekday_date,
        (
            ("today is {}", "heute ist {}"),
            ("the last day was {}", "der letzte Tag war {}"),
            ("the calendar says {}", "im Kalender steht {}"),
        ),
        share=2,
    ),
    Kind(
        clock,
        (
            ("the train leaves at {}", "der Zug fährt um {} Uhr ab"),
            ("the concert begins at {}", "das Konzert beginnt um {} Uhr"),
            ("we met at {}", "wir trafen uns um {} Uhr"),
            ("the bus arrived at {}", "der Bus kam um {} Uhr an"),
        ),
        share=2,
    ),
    Kind(
        spoken_time,
        (
            ("the train leaves at {}", "der Zug fährt um {} ab"),
            ("we eat at {}", "wir essen um {}"),
            ("the children sleep until {}", "die Kinder schlafen bis {}"),
            ("the film starts at {}", "der Film beginnt um {}"),
            ("please wake me at {}", "bitte wecke mich um {}"),
            ("the baker opens at {}", "der Bäcker öffnet um {}"),
        ),
        share=3,
    ),
    Kind(
        price,
        (
            ("the bicycle costs {}", "das Fahrrad kostet {}"),
            ("we paid {} for the room", "wir bezahlten {} für das Zimmer"),
            ("he owes me {}", "er schuldet mir {}"),
            ("the old lamp was sold for {}", "die alte Lampe wurde für {} verkauft"),
            ("a ticket costs {} now", "eine Karte kostet jetzt {}"),
        ),
        share=3,
    ),
    Kind(
        quantity,
        (
            ("the box holds {}", "die Kiste fasst {}"),
            ("we still need {}", "wir brauchen noch {}"),
            ("they measured {}", "sie maßen {}"),
            ("exactly {} are left", "genau {} sind übrig"),
        ),
        share=2,
    ),
)

# Openings that any sentence may have, and how one ends.
OPENINGS = (
    ("", ""),
    ("yes, ", "ja, "),
    ("no, ", "nein, "),
    ("I think ", "ich glaube, "),
    ("they say ", "man sagt, "),
)
ENDINGS = (".", "!")

# People who type a line to try something out often leave out the capital and the full stop.
TYPED_SHARE = 0.25


def sentence(rng: random.Random) -> tuple[str, str]:
    """Returns a source and its translation."""
    kind = rng.choices(KINDS, weights=[kind.share for kind in KINDS])[0]
    src_slot, tgt_slot = kind.make(rng)
    src_frame, tgt_frame = rng.choice(kind.frames)
    src_opening, tgt_opening = rng.choice(OPENINGS)
    src = src_opening + src_frame.format(src_slot)
    tgt = tgt_opening + tgt_frame.format(tgt_slot)
    if rng.random() < TYPED_SHARE:
        return src, tgt
    ending = rng.choice(ENDINGS)
    return src[0].upper() + src[1:] + ending, tgt[0].upper() + tgt[1:] + ending


def make_splits(seed: int, sizes: dict[str, int]) -> dict[str, list[tuple[str, str]]]:
    """Returns distinct pairs for each split; no source stands in two of them."""
    rng = random.Random(seed)
    pairs: dict[str, str] = {}
    while len(pairs) < sum(sizes.values()):
        src, tgt = sentence(rng)
        if pairs.setdefault(src, tgt) != tgt:
            raise AssertionError(f"two translations of one source: {src}")
    remaining = iter(pairs.items())
    return {name: [next(remaining) for _ in range(size)] for name, size in sizes.items()}


def write(folder: Path, splits: dict[str, list[tuple[str, str]]]) -> None:
    """Writes `<split>.en` and `<split>.de`, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, pairs in splits.items():
        for side, language in enumerate(("en", "de")):
            path = folder / f"{name}.{language}"
            unfinished = path.with_suffix(f".{language}.tmp")
            unfinished.write_text("".join(f"{pair[side]}\n" for pair in pairs), encoding="utf-8")
            os.replace(unfinished, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("data/demo"))
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    splits = make_splits(args.seed, SIZES)
    write(args.output, splits)
    counts = ", ".join(f"{len(pairs):,} {name}" for name, pairs in splits.items())
    print(f"{args.output}: {counts} pairs")


if __name__ == "__main__":
    main()
