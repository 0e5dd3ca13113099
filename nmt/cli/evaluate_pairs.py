"""`nmt evaluate` on a test set of several language pairs: scores of each, and their means."""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from nmt import errors
from nmt.checkpoint import folder
from nmt.cli import translate
from nmt.config import loading as config_loading
from nmt.config import schema
from nmt.evaluation import metrics
from nmt.inference import held_out, loading
from nmt.runtime import files


def several(args: argparse.Namespace) -> schema.DataConfig | None:
    """Returns the section `data` of a model with several test corpora; None for other models.

    Args:
        args: of `nmt evaluate`; a default model is named in them from here on.
    """
    path = loading.find_model(args.model)[0]
    args.model = args.model or [str(path)]
    data = config_loading.parse(folder.read_config(path), str(path / folder.CONFIG)).data
    return data if len(data.test_corpora) > 1 else None


def run(
    args: argparse.Namespace,
    data: schema.DataConfig,
    chosen: Sequence[str],
    settings: metrics.MetricSettings,
) -> int:
    """Translates and scores every test corpus of a model.

    Args:
        args: of `nmt evaluate`; `tgt_lang` is not given.
        data: of the model's configuration, with several test corpora.
        chosen: metrics.
        settings: of the metrics.

    Returns:
        0.
    """
    if args.tgt_lang is not None:
        raise errors.UsageError(
            "--tgt-lang: would be ignored, since data.test says the language of each of its corpora. "
            "Leave it out, or give --src and --ref."
        )
    machine = translate.build_translator(args, is_named_per_line=True)
    translations: list[str] = []
    found: dict[str, list[metrics.Score]] = {}
    for one in held_out.read(data, data.test_corpora):
        asked = [
            dataclasses.replace(machine.default, text=line, tgt_lang=one.tgt_lang)
            for line in one.sources
        ]
        hypotheses = []
        for outcome in machine.answer(asked):
            if outcome.error is not None:
                raise errors.UsageError(outcome.error)
            hypotheses.append(outcome.translations[0].text)
        found[one.name] = [
            metrics.score(name, hypotheses, [one.references], settings) for name in chosen
        ]
        translations += hypotheses
    if args.output is not None:
        files.atomic_write_text(Path(args.output), "".join(f"{line}\n" for line in translations))
    means = {
        name: sum(scores[place].value for scores in found.values()) / len(found)
        for place, name in enumerate(chosen)
    }
    if args.json:
        objects = [
            {"pair": pair, **score.as_json()} for pair, scores in found.items() for score in scores
        ]
        objects += [{"pair": "mean", "name": name, "score": mean} for name, mean in means.items()]
        print(json.dumps(objects, indent=1, ensure_ascii=False))
        return 0
    for pair, scores in found.items():
        for score in scores:
            print(f"{pair}  {score.text()}")
    for name, mean in means.items():
        print(f"mean  {name} = {mean:.2f}")
    return 0
