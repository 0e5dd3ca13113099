"""The flags of `nmt translate` that stand for keys under `decoding` in the configuration."""

import argparse

from nmt.cli import values

# Key, kind, and what `--help` says; the schema checks the values.
_CONTROL: tuple[tuple[str, type, str], ...] = (
    ("min_length_ratio", float, "no EOS before X times the source length"),
    ("max_length_ratio", float, "no translation beyond X times the source length, plus 20"),
    ("coverage_penalty", float, "strength of the penalty for source words left out; 0 = none"),
    ("no_repeat_ngram_size", int, "no sequence of N tokens comes twice"),
    ("repetition_penalty", float, "factor on log-probabilities of tokens that have come; 1 = none"),
    ("sample", bool, "draw from the model; --nbest says how often"),
    ("temperature", float, "with --sample: below 1 = likelier tokens"),
    ("top_k", int, "with --sample: draw from the N likeliest tokens"),
    ("top_p", float, "with --sample: draw from the likeliest tokens with this share together"),
    ("seed", int, "with --sample: the same seed gives the same output"),
    ("diversity_groups", int, "split the beam into N groups that avoid each other's tokens"),
    ("diversity_penalty", float, "how much the groups avoid each other's tokens"),
)
_EXPLAINING: tuple[tuple[str, type, str], ...] = (
    ("alignments", bool, "print word alignments from attention, `0-0 1-2`"),
    ("replace_unknown", bool, "put the aligned source word in place of unknown words"),
    ("token_scores", bool, "print the log-probability of each token"),
)

CONTROL = tuple(name for name, _, _ in _CONTROL)
EXPLAINING = tuple(name for name, _, _ in _EXPLAINING)


def add_control(verb: argparse.ArgumentParser) -> None:
    """Adds the flags that change which translation is found."""
    _add(verb, _CONTROL)


def add_explaining(verb: argparse.ArgumentParser) -> None:
    """Adds the flags that ask for more than the translation."""
    _add(verb, _EXPLAINING)
    verb.add_argument(
        "--return-scores", action="store_true", help="print the score behind each translation"
    )
    verb.add_argument("--target-prefix", metavar="TEXT", help="all translations begin so")
    verb.add_argument(
        "--constraints",
        metavar="FILE",
        help="a line for each input line: phrases that must appear, between tabs",
    )
    verb.add_argument(
        "--avoid", action="append", metavar="TEXT", help="phrase that may not appear; repeatable"
    )
    verb.add_argument(
        "--glossary", metavar="FILE", help="lines `source term TAB target term`; empty = keep it"
    )
    verb.add_argument(
        "--keep",
        action="append",
        metavar="PATTERN",
        help="what matches this regular expression in a source comes letter by letter (of one with "
        "groups, what the first of them matches), such as '<[^<>]+>'; repeatable",
    )


def _add(verb: argparse.ArgumentParser, flags: tuple[tuple[str, type, str], ...]) -> None:
    for name, kind, text in flags:
        flag = "--" + name.replace("_", "-")
        if kind is bool:
            verb.add_argument(flag, action="store_const", const=True, help=text)
        elif kind is int:
            verb.add_argument(flag, type=values.integer, metavar="N", help=text)
        else:
            verb.add_argument(flag, type=values.number, metavar="X", help=text)
