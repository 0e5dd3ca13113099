"""The flags of `nmt score` and `nmt mbr`, and those of `nmt translate` that weigh or choose."""

import argparse

from nmt.cli import values

SCORE_FORMATS = ("tsv", "jsonl", "moses")
MBR_METRICS = ("chrf", "bleu")
MBR_WEIGHTS = ("uniform", "model")
MBR_FORMATS = ("text", "moses")


def add_ensemble_weights(verb: argparse.ArgumentParser) -> None:
    """Adds how much each of several models counts."""
    verb.add_argument(
        "--ensemble-weights",
        type=values.weights,
        metavar="W1,W2,...",
        help="shares of the --model in the mean of their probabilities. Default: equal ones",
    )


def add_score_verb(verb: argparse.ArgumentParser) -> None:
    """Adds what `nmt score` reads and writes."""
    verb.add_argument("--src", metavar="FILE", help="sources, with --tgt or --nbest")
    verb.add_argument(
        "--tgt",
        metavar="FILE",
        help="translations, a line each. Default: both sides from stdin, with a tab between",
    )
    verb.add_argument(
        "--nbest",
        metavar="FILE",
        help="score the n-best list in moses format, of the lines of --src",
    )
    verb.add_argument("--output", metavar="FILE", help="default: stdout")
    verb.add_argument(
        "--format",
        type=values.one_of(SCORE_FORMATS),
        metavar="|".join(SCORE_FORMATS),
        help="tsv = `log-probability TAB score`; moses = the n-best list with them. Default: tsv",
    )
    verb.add_argument(
        "--tokens", action="store_true", help="also the pieces and the log-probability of each"
    )


def add_mbr_verb(verb: argparse.ArgumentParser) -> None:
    """Adds what `nmt mbr` reads, compares and writes."""
    verb.add_argument(
        "--input", metavar="FILE", help="n-best lists in moses format. Default: stdin"
    )
    verb.add_argument("--output", metavar="FILE", help="default: stdout")
    verb.add_argument(
        "--metric",
        type=values.one_of(MBR_METRICS),
        metavar="|".join(MBR_METRICS),
        help="by which candidates are compared. Default: chrf",
    )
    verb.add_argument(
        "--weights",
        type=values.one_of(MBR_WEIGHTS),
        metavar="|".join(MBR_WEIGHTS),
        help="of candidates as references; model = by their logprob feature. Default: uniform",
    )
    verb.add_argument(
        "--exact",
        action="store_true",
        help="compare pair by pair, not with the mean n-gram counts of all",
    )
    verb.add_argument(
        "--format",
        type=values.one_of(MBR_FORMATS),
        metavar="|".join(MBR_FORMATS),
        help="text = the chosen one; moses = the lists in their new order. Default: text",
    )


def add_mbr(verb: argparse.ArgumentParser) -> None:
    """Adds the choice among the candidates that a search makes."""
    verb.add_argument(
        "--mbr",
        type=values.one_of(MBR_METRICS),
        metavar="|".join(MBR_METRICS),
        help="choose by minimum Bayes risk: what is most like all candidates",
    )
    verb.add_argument(
        "--mbr-candidates",
        type=values.positive,
        metavar="N",
        help="of each line for --mbr. Default: the beam size; with --sample 32",
    )
    verb.add_argument(
        "--mbr-weights",
        type=values.one_of(MBR_WEIGHTS),
        metavar="|".join(MBR_WEIGHTS),
        help="of candidates as references. Default: uniform",
    )
    verb.add_argument(
        "--mbr-exact",
        action="store_true",
        help="compare pair by pair, not with the mean n-gram counts of all",
    )
