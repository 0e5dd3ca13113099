"""The scores of a validation are those that one computes by hand."""

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from nmt import errors
from nmt.config import schema
from nmt.evaluation import metrics
from nmt.inference import outcomes, scorer, translator, validation
from nmt.runtime import device as devices

Make = Callable[..., validation.Validator]


@pytest.fixture
def make(texts: translator.Texts, arithmetic: devices.Arithmetic) -> Make:
    """A function that makes a validator of a corpus, from decoding settings."""

    def build(
        src_lines: Sequence[str], tgt_lines: Sequence[str], **decoding: Any
    ) -> validation.Validator:
        settings = schema.DecodingConfig(**{"max_length": 12, "beam_size": 1} | decoding)
        return validation.Validator(src_lines, tgt_lines, texts, settings, arithmetic)

    return build


@pytest.mark.parametrize("beam_size", [1, 3])
def test_scores_are_those_computed_by_hand(model, make, texts, arithmetic, corpus, beam_size):
    """A part of the references are the model's own translations, so that chrF is not zero."""
    src_lines = [*corpus[:8], ""]
    decoding = schema.DecodingConfig(max_length=12, beam_size=beam_size)
    machine = translator.Translator(model, texts, decoding, arithmetic)
    hypotheses = [found[0].text for found in machine.translate(src_lines)]
    tgt_lines = [*hypotheses[:5], *corpus[8:11], ""]
    found = make(src_lines, tgt_lines, beam_size=beam_size).validate(model).scores

    settings = metrics.MetricSettings()
    for name in ("bleu", "chrf"):
        expected = metrics.score(name, hypotheses, [tgt_lines], settings).value
        assert found[name] == pytest.approx(expected)
    assert 1 < found["chrf"] < 100
    total, num_tokens = 0.0, 0
    for src, tgt in zip(src_lines, tgt_lines, strict=True):
        source = torch.tensor([[*texts.src.encode(src), 2]])
        wanted = torch.tensor([*texts.tgt.encode(tgt), 2])
        with torch.no_grad():
            inputs = torch.cat([torch.tensor([1]), wanted[:-1]]).unsqueeze(0)
            states, _ = model(source, torch.ones_like(source, dtype=torch.bool), inputs)
            total += float(
                torch.nn.functional.cross_entropy(model.logits(states)[0], wanted, reduction="sum")
            )
        num_tokens += len(wanted)
    assert found["loss"] == pytest.approx(total / num_tokens)
    assert found["perplexity"] == pytest.approx(math.exp(total / num_tokens))
    assert list(found) == ["loss", "perplexity", "bleu", "chrf"]


def test_the_best_translation_of_each_line_meets_the_reference_of_that_line(
    rnn, make, corpus, monkeypatch
):
    hypotheses, references = [*corpus[:6], *corpus[8:10]], corpus[:8]
    monkeypatch.setattr(
        translator.Translator,
        "translate",
        lambda self, lines: [
            [outcomes.Translation(text), outcomes.Translation("worse")]
            for text, _ in zip(hypotheses, lines, strict=True)
        ],
    )
    found = make(corpus[20:28], references).validate(rnn).scores
    expected = metrics.score("bleu", hypotheses, [references], metrics.MetricSettings()).value
    assert found["bleu"] == pytest.approx(expected)
    assert 10 < expected < 100


def test_the_loss_is_a_mean_over_tokens_and_knows_no_length_penalty(rnn, make, corpus):
    src_lines, tgt_lines = corpus[:4], ["a", corpus[5], "", corpus[7]]
    losses = [
        make(src_lines, tgt_lines, length_penalty=alpha).validate(rnn).scores["loss"]
        for alpha in (0.0, 1.0)
    ]
    assert losses[0] == losses[1]


def test_validating_twice_gives_the_same(model, make, corpus):
    validator = make(corpus[:5], corpus[5:10])
    assert validator.validate(model) == validator.validate(model)


def test_a_hopeless_model_has_a_huge_perplexity_and_no_overflow(rnn, make, corpus, monkeypatch):
    pair = scorer.PairScore(log_probability=-50_000.0, num_tokens=10, score=0.0)
    monkeypatch.setattr(scorer.Scorer, "score", lambda self, src, tgt: [pair] * len(src))
    found = make(corpus[:3], corpus[:3]).validate(rnn).scores
    assert found["loss"] == 5000
    assert math.isfinite(found["perplexity"])


@pytest.mark.parametrize(("num_lines", "shown"), [(1, [0]), (2, [0, 1]), (9, [0, 3, 6])])
def test_a_few_samples_are_shown_from_all_over_the_corpus(
    rnn, make, corpus, caplog, num_lines, shown
):
    src_lines, tgt_lines = corpus[:num_lines], corpus[50 : 50 + num_lines]
    with caplog.at_level(logging.INFO, logger="nmt.inference.validation"):
        make(src_lines, tgt_lines).validate(rnn)
    first, *samples = [record.getMessage() for record in caplog.records]
    assert first.startswith("validation: loss ")
    assert len(samples) == 3 * len(shown)
    for place, index in enumerate(shown):
        assert samples[3 * place].endswith(f"source      {src_lines[index]}")
        assert samples[3 * place + 1].endswith(f"reference   {tgt_lines[index]}")
        assert "translation " in samples[3 * place + 2]


def test_long_samples_are_shortened(rnn, make, caplog):
    with caplog.at_level(logging.INFO, logger="nmt.inference.validation"):
        make(["a" * 5000], ["b" * 200], max_src_tokens=50).validate(rnn)
    samples = [record.getMessage().split()[1:] for record in caplog.records[1:3]]
    assert samples == [["a" * 200, "..."], ["b" * 200]]


def test_weights_and_mode_of_the_model_stay(rnn, make, corpus):
    before = {name: tensor.clone() for name, tensor in rnn.state_dict().items()}
    make(corpus[:3], corpus[3:6]).validate(rnn)
    assert not rnn.training
    assert all(torch.equal(before[name], tensor) for name, tensor in rnn.state_dict().items())


def test_validation_draws_no_random_numbers(model, make, corpus):
    """A run that validates more often trains on as if it did not."""
    before = torch.get_rng_state()
    make(corpus[:3], corpus[3:6]).validate(model)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("where", ["score", "search"])
def test_a_line_without_room_in_memory_is_told_with_its_corpus(
    where, model, make, corpus, monkeypatch
):
    owner, name = {
        "score": (scorer.Scorer, "_score"),
        "search": (translator.Translator, "_search"),
    }[where]

    def too_large(*args: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(owner, name, too_large)
    validator = make(corpus[:3], corpus[3:6])
    with pytest.raises(
        errors.TrainingError, match=r"^data\.valid: .*fit in memory.*max_src_tokens"
    ):
        validator.validate(model)
