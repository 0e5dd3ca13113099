"""The verbs and their flags.

Flags default to None, so that the configuration decides. Imports nothing but argparse, our errors and
more flags: `nmt --help` answers at once.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from typing import NoReturn

from nmt import errors
from nmt.cli import (
    decoding_flags,
    engine_flags,
    evaluate_flags,
    report_flags,
    reranking_flags,
    values,
)

PRECISIONS = ("auto", "fp32", "bf16", "fp16", "fp64")
INFERENCE_PRECISIONS = ("auto", "fp32", "bf16", "int8", "fp16", "fp64")
FAMILIES = ("transformer", "rnn", "cnn")
FORMATS = ("text", "moses", "jsonl")
LONG = ("truncate", "split")

_DESCRIPTION = "Trains, runs and judges neural machine translation models."
_EPILOG = "`nmt VERB --help` lists the flags of a verb."

_MODEL_HELP = (
    "model folder (the run_dir of a configuration); several are an ensemble. "
    "Default: $NMT_MODEL, else the run that was last trained from this directory"
)


class _Parser(argparse.ArgumentParser):
    """Raises what argparse finds wrong as one line, instead of printing usage and exiting."""

    def error(self, message: str) -> NoReturn:
        raise errors.UsageError(_reworded(message))


class _Version(argparse.Action):
    """Prints the version and ends, whatever else is given."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:  # noqa: A002
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        # Imported here: it is slow, and `--help` need not wait for it.
        from importlib import metadata

        try:
            version = metadata.version("nmt-toolkit")
        except metadata.PackageNotFoundError:
            version = "(not installed)"
        print(f"nmt {version}")
        parser.exit()


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Returns the parsed command line; `verb` names the verb.

    Args:
        argv: without the program's name.

    Raises:
        errors.UsageError: the command line is wrong.
        SystemExit: after `--help` and `--version`, with 0.
    """
    parser, verbs = build()
    _check_verb(argv, list(verbs))
    if argv[0] in verbs:
        _check_options(argv[1:], verbs[argv[0]])
    args, extras = parser.parse_known_args(argv)
    if extras:
        if extras[0].startswith("-") and extras[0] != "-":
            raise errors.UsageError(_unknown_option(extras[0], verbs[args.verb]))
        raise errors.UsageError(
            f"{extras[0]!r}: is one argument too many. `nmt {args.verb} --help` lists what fits."
        )
    return args


def build() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Returns the whole parser, and the parser of each verb by its name."""
    parser = _Parser(prog="nmt", description=_DESCRIPTION, epilog=_EPILOG, allow_abbrev=False)
    parser.add_argument("--version", action=_Version, help="print the version")
    group = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=_Parser)
    makers: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
        "init": ("write a configuration to start from", _add_init),
        "check": ("find what is wrong with a configuration and its data", _add_check),
        "train": ("train what a configuration describes, or resume it", _add_train),
        "translate": ("translate lines", _add_translate),
        "evaluate": ("score translations against references", _add_evaluate),
        "score": ("say how probable a model finds given translations", _add_score),
        "mbr": ("choose from n-best lists by minimum Bayes risk", reranking_flags.add_mbr_verb),
        "inspect": ("show what is in a model folder", _add_inspect),
        "runs": ("list the runs in a folder", report_flags.add_runs),
        "report": ("write what runs have done into one file", report_flags.add_report),
        "plot": ("draw the curves and the attention of runs", report_flags.add_plot),
        "average": ("average the weights of a run's checkpoints", _add_average),
        "export": (
            "write a model for another engine",
            engine_flags.add_export,
        ),
        "optimize": (
            "choose the fastest precision that costs no quality",
            engine_flags.add_optimize,
        ),
    }
    verbs: dict[str, argparse.ArgumentParser] = {}
    for name, (text, add) in makers.items():
        verb = group.add_parser(
            name, help=text, description=f"{text.capitalize()}.", allow_abbrev=False
        )
        add(verb)
        verb.add_argument("--version", action=_Version, help="print the version")
        loudness = verb.add_mutually_exclusive_group()
        loudness.add_argument(
            "-q", "--quiet", action="store_true", help="print warnings and errors only"
        )
        loudness.add_argument("-v", "--verbose", action="store_true", help="print more")
        verbs[name] = verb
    return parser, verbs


def _add_init(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--src", required=True, metavar="FILE", help="source side of training")
    verb.add_argument("--tgt", required=True, metavar="FILE", help="target side of training")
    verb.add_argument("--src-lang", required=True, metavar="LANG", help="source language: en")
    verb.add_argument("--tgt-lang", required=True, metavar="LANG", help="target language: de")
    verb.add_argument(
        "--valid-src",
        metavar="FILE",
        help="source side of validation. Default: the last 10 %% of the pairs, at most 2000, "
        "are held out, half of them as a test set",
    )
    verb.add_argument("--valid-tgt", metavar="FILE", help="target side of validation")
    verb.add_argument(
        "--family",
        type=values.one_of(FAMILIES),
        metavar="|".join(FAMILIES),
        help="default: transformer",
    )
    verb.add_argument("--output", metavar="FILE", help="default: config.yaml")
    verb.add_argument("--force", action="store_true", help="overwrite existing files")


def _add_config(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("config", metavar="CONFIG", help="the configuration, a YAML file")
    verb.add_argument(
        "--set",
        action="append",
        metavar="KEY=VALUE",
        help="override a key, such as training.max_updates=100; repeatable",
    )


def _add_check(verb: argparse.ArgumentParser) -> None:
    _add_config(verb)
    verb.add_argument(
        "--no-probe", action="store_true", help="try no updates: no figures of time and memory"
    )
    verb.add_argument("--json", action="store_true", help="print JSON")
    _add_machine(verb, "training.precision")


def _add_train(verb: argparse.ArgumentParser) -> None:
    _add_config(verb)
    verb.add_argument(
        "--fresh", action="store_true", help="start anew; an existing run is moved aside"
    )
    _add_machine(verb, "training.precision")


def _add_translate(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--model", action="append", metavar="DIR", help=_MODEL_HELP)
    reranking_flags.add_ensemble_weights(verb)
    verb.add_argument("--input", metavar="FILE", help="lines to translate. Default: stdin")
    verb.add_argument("--output", metavar="FILE", help="default: stdout")
    _add_decoding(verb)
    verb.add_argument(
        "--nbest", type=values.positive, metavar="N", help="so many translations of each line"
    )
    verb.add_argument(
        "--format",
        type=values.one_of(FORMATS),
        metavar="|".join(FORMATS),
        help="moses = `number ||| text ||| features ||| score`; jsonl = JSON objects in and out. "
        "Default: text",
    )
    engine_flags.add_engine(verb)
    engine_flags.add_tgt_lang(verb)
    decoding_flags.add_explaining(verb)
    reranking_flags.add_mbr(verb)
    _add_machine(verb, "decoding.precision", INFERENCE_PRECISIONS)


def _add_evaluate(verb: argparse.ArgumentParser) -> None:
    evaluate_flags.add(verb)
    reranking_flags.add_mbr(verb)
    engine_flags.add_tgt_lang(verb)
    _add_decoding(verb)
    _add_machine(verb, "decoding.precision", INFERENCE_PRECISIONS)


def _add_score(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--model", action="append", metavar="DIR", help=_MODEL_HELP)
    reranking_flags.add_ensemble_weights(verb)
    reranking_flags.add_score_verb(verb)
    engine_flags.add_tgt_lang(verb)
    verb.add_argument(
        "--length-penalty",
        type=values.number,
        metavar="X",
        help="0 = the score is not divided by the length",
    )
    verb.add_argument(
        "--batch-tokens",
        type=values.integer,
        metavar="N",
        help="tokens scored at once, padding included",
    )
    _add_machine(verb, "decoding.precision", INFERENCE_PRECISIONS)


def _add_inspect(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help=_MODEL_HELP.replace("; several are an ensemble", ""),
    )
    verb.add_argument("--json", action="store_true", help="print JSON")


def _add_average(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("model", metavar="MODEL_DIR", help="folder of a run, finished or not")
    which = verb.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--last", type=values.positive, metavar="N", help="average the newest N checkpoints"
    )
    which.add_argument(
        "--checkpoints",
        type=values.positives,
        metavar="U1,U2,...",
        help="average the checkpoints or snapshots of these updates; `nmt inspect` lists them",
    )
    verb.add_argument(
        "--output", required=True, metavar="DIR", help="the new model folder, not there yet"
    )


def _add_decoding(verb: argparse.ArgumentParser) -> None:
    """Adds the flags that stand for keys under `decoding`; the schema checks their values."""
    decoding_flags.add_control(verb)
    verb.add_argument(
        "--beam-size", type=values.integer, metavar="N", help="hypotheses; 1 = greedy"
    )
    verb.add_argument(
        "--length-penalty",
        type=values.number,
        metavar="X",
        help="0 = plain sum of log-probabilities",
    )
    verb.add_argument("--min-length", type=values.integer, metavar="N", help="in target tokens")
    verb.add_argument("--max-length", type=values.integer, metavar="N", help="in target tokens")
    verb.add_argument(
        "--patience",
        type=values.number,
        metavar="X",
        help="a sentence is done at beam size times X finished hypotheses, if none open is better",
    )
    verb.add_argument(
        "--exact-stop",
        action="store_const",
        const=True,
        help="go on until no open hypothesis can win",
    )
    verb.add_argument(
        "--shortlist",
        action=argparse.BooleanOptionalAction,
        help="search only what `nmt optimize --shortlist` found likely. Default: if it chose so",
    )
    verb.add_argument(
        "--long",
        type=values.one_of(LONG),
        metavar="|".join(LONG),
        help="what becomes of lines past decoding.max_src_tokens",
    )
    verb.add_argument(
        "--batch-size", type=values.positive, metavar="SENTENCES", help="searched at once at most"
    )
    verb.add_argument(
        "--batch-tokens",
        type=values.integer,
        metavar="N",
        help="source tokens times beam size searched at once",
    )


def _add_machine(
    verb: argparse.ArgumentParser, precision_key: str, precisions: Sequence[str] = PRECISIONS
) -> None:
    verb.add_argument("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps")
    verb.add_argument(
        "--precision",
        type=values.one_of(precisions),
        metavar="|".join(precisions),
        help=f"arithmetic; default: {precision_key} of the configuration",
    )
    verb.add_argument("--threads", type=values.positive, metavar="N", help="CPU threads")


def _check_verb(argv: Sequence[str], verbs: Sequence[str]) -> None:
    """Finds a wrong verb, and flags before it, for which argparse has no good words."""
    if argv[0] in verbs or argv[0] in {"-h", "--help", "--version"}:
        return
    if argv[0].startswith("-"):
        raise errors.UsageError(
            f"{argv[0]}: unknown option before the verb. Allowed there: --help, --version. "
            f"Write the verb first: nmt VERB {argv[0]}"
        )
    raise errors.UsageError(
        f"{argv[0]}: unknown verb.{errors.did_you_mean(argv[0], verbs)} Known: {', '.join(verbs)}."
    )


def _check_options(argv: Sequence[str], verb: argparse.ArgumentParser) -> None:
    """Finds a misspelt option before argparse complains of what is missing because of it."""
    for text in argv:
        if text == "--":
            return
        known = verb._option_string_actions
        if text.startswith("--") and text.partition("=")[0] not in known:
            raise errors.UsageError(_unknown_option(text, verb))


def _unknown_option(text: str, verb: argparse.ArgumentParser) -> str:
    name = text.partition("=")[0]
    known = [option for option in verb._option_string_actions if option.startswith("--")]
    hint = errors.did_you_mean(name, known)
    return f"{name}: unknown option.{hint or f' `{verb.prog} --help` lists the options.'}"


def _reworded(message: str) -> str:
    """Returns argparse's complaint in our form: the flag, a colon, what is wrong."""
    match = re.fullmatch(r"argument (\S+): (.*)", message, re.DOTALL)
    if match:
        flag, what = match[1].rpartition("/")[2], match[2]
        if what.startswith("expected"):
            what = "wants a value."
        elif what.startswith("ignored explicit argument"):
            what = f"takes no value (given: {what.removeprefix('ignored explicit argument ')})."
        elif what.startswith("not allowed with argument"):
            other = what.rpartition(" ")[2].rpartition("/")[2]
            what = f"does not go with {other}. Give one of them."
        return f"{flag}: {what}"
    missing = re.fullmatch(r"the following arguments are required: (.*)", message)
    if missing:
        return f"{missing[1]}: missing. Add it."
    return message
