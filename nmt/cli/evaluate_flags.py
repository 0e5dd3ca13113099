"""The flags of `nmt evaluate`."""

import argparse

from nmt.cli import reranking_flags, values

BREAKDOWNS = ("length", "frequency", "copy", "repetition")


def add(verb: argparse.ArgumentParser) -> None:
    """Adds all but the flags of search and machine."""
    verb.add_argument(
        "--model",
        action="append",
        metavar="DIR[,DIR]",
        help="model folder (the run_dir of a configuration); repeated = compared with the first; "
        "commas = one ensemble. Default: $NMT_MODEL, else the run that was last trained from this "
        "directory",
    )
    reranking_flags.add_ensemble_weights(verb)
    verb.add_argument(
        "--src",
        metavar="FILE",
        help="lines to translate, or that --hyp translates (for --by copy and COMET). "
        "Default: data.test of the (first) model",
    )
    verb.add_argument(
        "--ref", action="append", metavar="FILE", help="reference translations; repeatable"
    )
    verb.add_argument(
        "--hyp",
        action="append",
        metavar="FILE",
        help="ready translations to score against --ref; needs no model; repeated = compared with "
        "the first",
    )
    _add_metrics(verb)
    _add_judgement(verb)


def _add_metrics(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--metric",
        action="extend",
        type=_listed,
        metavar="NAME[,NAME]",
        help="bleu, chrf, chrf++, ter, exact_match, token_accuracy, sequence_accuracy, wer, cer, "
        "rouge1, rouge2, rougel, span_f1, comet; repeatable. Default: bleu,chrf",
    )
    verb.add_argument("--bleu", action="store_true", help="BLEU")
    verb.add_argument("--chrf", action="store_true", help="chrF")
    verb.add_argument("--ter", action="store_true", help="translation edit rate")
    verb.add_argument("--exact-match", action="store_true", help="share of identical lines")
    verb.add_argument(
        "--lowercase",
        action="store_true",
        help="ignore case (sacreBLEU's --lowercase and --chrf-lowercase; TER always does)",
    )
    verb.add_argument("--tokenize", metavar="NAME", help="sacreBLEU's tokenizer. Default: 13a")
    verb.add_argument("--comet-model", metavar="FILE", help="file of the model of --metric comet")
    verb.add_argument(
        "--download", action="store_true", help="--comet-model is a name; fetch what it needs"
    )


def _add_judgement(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--confidence",
        action="store_true",
        help="95 %% bootstrap intervals; several systems always have them, and paired tests",
    )
    verb.add_argument(
        "--resamples", type=values.positive, metavar="N", help="of the bootstrap. Default: 1000"
    )
    verb.add_argument(
        "--trials",
        type=values.positive,
        metavar="N",
        help="of paired approximate randomisation. Default: 10000",
    )
    verb.add_argument(
        "--by",
        type=values.several_of(BREAKDOWNS),
        metavar=",".join(BREAKDOWNS),
        help="also the scores of lines of each length, rarity of words, ...",
    )
    verb.add_argument(
        "--frequency-text",
        metavar="FILE",
        help="text in which --by frequency counts words, such as the target side of training. "
        "Default: the first reference",
    )
    form = verb.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--tsv", action="store_true", help="print tab-separated values")
    verb.add_argument("--segments", metavar="FILE", help="write the scores of each line there")
    verb.add_argument("--output", metavar="FILE", help="write the translations there")


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]
