"""`nmt evaluate`: translations against references, in sacreBLEU's figures."""

import argparse
import json
import logging
from pathlib import Path

from nmt import errors
from nmt.evaluation import metrics
from nmt.runtime import files

logger = logging.getLogger(__name__)

# Options in the order in which their scores are printed.
METRIC_FLAGS = ("bleu", "chrf", "ter", "exact_match")
DEFAULT_METRICS = ("bleu", "chrf")


def run(args: argparse.Namespace) -> int:
    """Scores a ready file, or the translations that a model makes of the test set or of --src.

    Args:
        args: `model`, `src`, `ref`, `hyp`, the metrics, `lowercase`, `tokenize`, `json`, `output`,
            and the flags of `nmt translate`.

    Returns:
        0.
    """
    chosen = [name for name in METRIC_FLAGS if getattr(args, name)] or list(DEFAULT_METRICS)
    settings = metrics.MetricSettings(
        lowercase=bool(args.lowercase), tokenize=args.tokenize or "13a"
    )
    if args.hyp is None and args.src is None and not args.ref:
        from nmt.cli import evaluate_pairs

        if (data := evaluate_pairs.several(args)) is not None:
            return evaluate_pairs.run(args, data, chosen, settings)
    if args.hyp is not None:
        hypotheses, references = _ready(args)
    else:
        hypotheses, references = _translated(args)
    if args.output is not None:
        files.atomic_write_text(Path(args.output), "".join(f"{line}\n" for line in hypotheses))
    scores = [metrics.score(name, hypotheses, references, settings) for name in chosen]
    if args.json:
        print(json.dumps([score.as_json() for score in scores], indent=1, ensure_ascii=False))
    else:
        for score in scores:
            print(score.text())
    return 0


def _ready(args: argparse.Namespace) -> tuple[list[str], list[list[str]]]:
    """Returns the lines of --hyp and of every --ref; no model is needed."""
    if args.src is not None or args.model or args.tgt_lang:
        flag = "--src" if args.src is not None else "--model" if args.model else "--tgt-lang"
        raise errors.UsageError(f"{flag}: would be ignored, since --hyp is translated already.")
    if not args.ref:
        raise errors.UsageError("--hyp: wants --ref, the file of references, at least once.")
    return _lines(args.hyp), [_lines(path) for path in args.ref]


def _translated(args: argparse.Namespace) -> tuple[list[str], list[list[str]]]:
    """Returns translations by the model and the references, of --src/--ref or of the test set."""
    if (args.src is None) != (not args.ref):
        raise errors.UsageError("--src and --ref: give both, or neither for the model's test set.")
    # Imported here, so that scoring a ready file need not wait for torch.
    from nmt.cli import translate
    from nmt.config import loading as config_loading
    from nmt.data import readers
    from nmt.inference import loading

    if args.src is not None:
        sources, references = _lines(args.src), [_lines(path) for path in args.ref]
    else:
        from nmt.checkpoint import folder

        path = loading.find_model(args.model)[0]
        args.model = args.model or [str(path)]
        config = config_loading.parse(folder.read_config(path), str(path / "config.yaml"))
        if config.data.test is None:
            raise errors.UsageError(
                f"{path}: its configuration names no data.test. Give --src and --ref."
            )
        pairs = list(readers.read_pairs(config.data.test_corpora[0]))
        if config.data.languages and args.tgt_lang is None:
            args.tgt_lang = config.data.pair_of(config.data.test_corpora[0])[1]
        sources, references = [src for src, _ in pairs], [[tgt for _, tgt in pairs]]
    for path_name, reference in zip(args.ref or ["data.test"], references, strict=True):
        if len(reference) != len(sources):
            raise errors.DataError(
                f"{path_name}: {len(reference)} lines, but the source has {len(sources)}. "
                "Each source line wants one reference."
            )
    machine = translate.build_translator(args)
    hypotheses = [found[0].text for found in machine.translate(sources)]
    if machine.num_cut:
        logger.warning(
            "lines that were longer than the model reads and were cut: %d", machine.num_cut
        )
    if machine.num_split:
        logger.warning(
            "lines that were longer than the model reads and were split: %d", machine.num_split
        )
    return hypotheses, references


def _lines(path: str) -> list[str]:
    return list(files.read_lines(Path(path)))
