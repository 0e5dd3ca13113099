"""Which models can be exported, and that CTranslate2 computes what they compute."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pydantic
import pytest
import torch

from nmt import errors
from nmt.config import families, schema
from nmt.inference import loading, scorer, translator
from nmt.interop import ctranslate2_engine, ctranslate2_export, ctranslate2_spec
from nmt.text import vocab

NO_PACKAGE = "the extra ctranslate2 is not installed"
SEED = 1  # of a model that ends many sentences
PIECES = vocab.Vocab(("<unk>", "<s>", "</s>", "<pad>", "a"), 0, 1, 2, 3)

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "post": {"norm_position": "post"},
    "rmsnorm": {"norm": "rmsnorm"},
    "post-rmsnorm": {"norm_position": "post", "norm": "rmsnorm"},
    "gelu": {"activation": "gelu"},
    "swiglu": {"activation": "swiglu"},
    "learned": {"positions": "learned", "max_positions": 50},
    "rotary": {"positions": "rotary"},
    "deep-shallow": {"encoder": {"num_layers": 3}, "decoder": {"num_layers": 1}},
    "mixed": {"encoder": {"norm": "rmsnorm", "positions": "rotary"}, "decoder": {"num_heads": 4}},
    "widths": {"encoder": {"hidden_size": 24}},
    "untied": {"model": {"tie_embeddings": "none"}},
    "two-vocabularies": {"shared": False},
}


def both(
    run_dir: Path, tmp_path: Path, decoding: schema.DecodingConfig
) -> tuple[translator.Translator, ctranslate2_engine.Engine]:
    """Returns a model in both engines, without the comparison of an export."""
    loaded = loading.load(run_dir, device="cpu", precision="fp32")
    vocabs = loaded.texts.src.vocab, loaded.texts.tgt.vocab
    ctranslate2_spec.check(loaded.config.model, *vocabs)
    spec = ctranslate2_spec.build(loaded.model, loaded.config.model, vocabs, (60, 60))
    path = tmp_path / f"{run_dir.name}-export"
    path.mkdir()
    spec.validate()
    spec.optimize(quantization="float32")
    spec.save(str(path))
    (path / "tokenizer").symlink_to(run_dir / "tokenizer")
    engine = ctranslate2_engine.Engine(path, decoding, (60, 60), device=torch.device("cpu"))
    ours = translator.Translator(loaded.model, loaded.texts, decoding, loaded.arithmetic)
    return ours, engine


@pytest.mark.parametrize("name", VARIANTS)
def test_both_engines_give_a_pair_the_same_probability(
    name: str, make_run: Callable[..., Path], tmp_path: Path, corpus: list[str]
):
    pytest.importorskip("ctranslate2", reason=NO_PACKAGE)
    run_dir = make_run(**VARIANTS[name])
    loaded = loading.load(run_dir, device="cpu", precision="fp32")
    sources, targets = corpus[:20], corpus[20:40]
    scoring = scorer.Scorer(loaded.model, loaded.texts, schema.DecodingConfig(), loaded.arithmetic)
    wanted = [pair.log_probability for pair in scoring.score(sources, targets)]
    _, engine = both(run_dir, tmp_path, schema.DecodingConfig(beam_size=1, max_length=60))
    pieces = [
        [[side.vocab.pieces[token] for token in ids] for ids in side.encode_batch(lines)]
        for side, lines in ((loaded.texts.src, sources), (loaded.texts.tgt, targets))
    ]
    found = [sum(result.log_probs) for result in engine._model.score_batch(*pieces)]
    assert found == pytest.approx(wanted, rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("beam_size", [1, 5])
def test_both_searches_find_the_same_tokens_with_the_same_scores(
    beam_size: int, make_run: Callable[..., Path], tmp_path: Path, corpus: list[str]
):
    pytest.importorskip("ctranslate2", reason=NO_PACKAGE)
    decoding = schema.DecodingConfig(
        beam_size=beam_size, length_penalty=0.0, max_length=40, max_length_ratio=1e6
    )
    # With tied embeddings a random model repeats its first word for ever.
    run_dir = make_run(model={"tie_embeddings": "none"}, seed=SEED)
    ours, theirs = both(run_dir, tmp_path, decoding)
    lines = [line for line in corpus if line.strip()]
    wanted = [found[0] for found in ours.translate(lines)]
    found = [found[0] for found in theirs.translate(lines)]
    # What reaches the limit ends there without EOS in CTranslate2, and may win for that.
    ended = [i for i in range(len(lines)) if len(wanted[i].tokens) < 39 > len(found[i].tokens)]
    assert len({wanted[i].tokens for i in ended}) >= 15, "too few translations to compare"
    assert [found[i].tokens for i in ended] == [wanted[i].tokens for i in ended]
    assert [found[i].score for i in ended] == pytest.approx(
        [wanted[i].score for i in ended], rel=1e-4, abs=1e-3
    )


def test_rounding_to_integers_leaves_the_model_as_it_was(make_run, tmp_path):
    pytest.importorskip("ctranslate2", reason=NO_PACKAGE)
    loaded = loading.load(make_run(), device="cpu", precision="fp32")
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    vocabs = loaded.texts.src.vocab, loaded.texts.tgt.vocab
    spec = ctranslate2_spec.build(loaded.model, loaded.config.model, vocabs, (60, 60))
    spec.validate()
    spec.optimize(quantization="int8")
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def model_config(encoder: dict[str, Any], decoder: dict[str, Any]) -> schema.ModelConfig:
    return schema.ModelConfig.model_validate({"encoder": encoder, "decoder": decoder})


@pytest.mark.parametrize("family", ["rnn", "cnn"])
@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_other_families_are_refused_with_the_reason(family: str, side: str):
    sides = {name: {"type": "transformer"} for name in ("encoder", "decoder")}
    sides[side] = {"type": family}
    with pytest.raises(errors.UsageError, match=rf"model\.{side}\.type: .*given: {family}\): .*\."):
        ctranslate2_spec.check(model_config(**sides), PIECES, PIECES)


class _WithNews(families.TransformerDecoderOptions):
    """An option that the export does not know."""

    news: Literal["none", "ssru"] = pydantic.Field("none")


@pytest.mark.parametrize("value", ["none", "ssru"])
def test_an_option_that_is_not_known_is_refused_unless_it_has_its_default(value: str):
    config = model_config({"type": "transformer"}, {"type": "transformer"})
    config = config.model_copy(update={"decoder": _WithNews(news=value)})
    if value == "none":
        ctranslate2_spec.check(config, PIECES, PIECES)
    else:
        with pytest.raises(errors.UsageError, match=r"model\.decoder\.news: .*given: ssru"):
            ctranslate2_spec.check(config, PIECES, PIECES)


def test_every_option_of_the_family_is_known_to_the_export():
    known = ctranslate2_spec._FREE_OPTIONS | set(ctranslate2_spec._CHOICES)
    for options in (families.TransformerEncoderOptions, families.TransformerDecoderOptions):
        assert known <= set(options.model_fields), "an option was removed or renamed"


def test_a_piece_that_stands_in_the_vocabulary_twice_is_refused():
    twice = vocab.Vocab((*PIECES.pieces, "a"), 0, 1, 2, 3)
    config = model_config({"type": "transformer"}, {"type": "transformer"})
    with pytest.raises(errors.UsageError, match="target: .*'a'"):
        ctranslate2_spec.check(config, PIECES, twice)


def test_without_the_package_the_extra_is_named(monkeypatch):
    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(errors.UsageError, match=r"pip install 'nmt-toolkit\[ctranslate2\]'"):
        ctranslate2_spec.package()


def test_settings_of_an_export_have_no_length_penalty_and_fit_its_positions(make_run):
    config = loading.load(make_run(positions="learned", max_positions=30)).config
    decoding, positions, _ = ctranslate2_export._settings(config)
    assert (decoding.length_penalty, decoding.max_length) == (0.0, 30)
    assert positions == (30, 30)
    config = loading.load(make_run(positions="rotary", decoding={"max_length": 2000})).config
    decoding, positions, rows = ctranslate2_export._settings(config)
    assert (decoding.max_length, positions, rows[1]) == (2000, (None, None), 2000)
