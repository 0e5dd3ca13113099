"""What is asked for and what may not come: constraints, phrases to avoid, and company in low precision."""

import dataclasses
import itertools
import re
from typing import Any

import pytest
import torch

from nmt.config import schema
from nmt.inference import explaining, outcomes, requests, scorer, shortlists, translator
from nmt.models import packed, quantized
from nmt.runtime import device as devices
from nmt.search import constraints, rules

SETTINGS: dict[str, Any] = {"beam_size": 3, "max_length": 20}


def test_what_is_to_be_avoided_is_not_spelled_in_another_way_either(make, rnn, corpus, texts):
    """Random models spell words in any pieces: what comes out is avoided, round by round."""
    machine = make(rnn, sample=True, temperature=3.0, seed=1)
    num_words = num_others = 0
    for line in corpus[:70]:
        (found,) = machine.translate([line])[0]
        words = [word for word in found.text.split() if word.isalnum()]
        for word in words[:2]:
            pieces = texts.tgt.encode(word)
            num_others += not any(
                list(found.tokens[i : i + len(pieces)]) == pieces for i in range(len(found.tokens))
            )
            asked = dataclasses.replace(machine.default, text=line, avoid=(word,))
            (outcome,) = machine.answer([asked])
            assert outcome.error is None
            assert word not in outcome.translations[0].text.split()
            num_words += 1
    assert num_words > 20 and num_others > 3


def test_what_is_to_be_avoided_is_seen_behind_punctuation_but_not_inside_words(make, rnn, texts):
    tgt = texts.tgt
    planner = make(rnn)._planner
    planned = planner.plan(dataclasses.replace(make(rnn).default, text="x", avoid=("ab",)))
    quoted = tuple(tgt.encode('cd "ab" d'))
    (spelling,) = planner.other_spellings(planned, [quoted])
    assert tgt.decode(list(spelling)).strip() == '"ab'
    assert any(quoted[i : i + len(spelling)] == spelling for i in range(len(quoted)))
    assert not planner.other_spellings(planned, [tuple(tgt.encode("cab gab"))])


def test_a_constraint_ends_where_its_word_ends(make, rnn, corpus):
    machine = make(rnn, max_length=30)
    words = sorted({word for line in corpus[:20] for word in line.split()})[:30]
    asked = [
        dataclasses.replace(machine.default, text=corpus[i], constraints=(word,))
        for i, word in enumerate(words)
    ]
    for request, outcome in zip(asked, machine.answer(asked), strict=True):
        text = outcome.translations[0].text
        assert re.search(rf"(?<!\w){re.escape(request.constraints[0])}(?![a-zäß])", text), text


def test_constraints_whose_tables_are_large_are_searched_in_small_batches(
    rnn, make, corpus, searched, monkeypatch
):
    machine = make(rnn, batch_sentences=8, max_length=40)
    asked = [
        dataclasses.replace(machine.default, text=line, constraints=("ab", "ba dc"))
        for line in corpus[:8]
    ]
    wanted = machine.answer(asked)
    assert [len(call["ids"]) for call in searched] == [8]
    most = constraints.num_entries([machine._plan(asked[0])] * 2)
    monkeypatch.setattr(translator, "MAX_ENTRIES", most)
    found = machine.answer(asked)
    assert [one.translations[0].tokens for one in found] == [
        one.translations[0].tokens for one in wanted
    ]
    assert [len(call["ids"]) for call in searched[1:]] == [2] * 4


def test_phrases_to_avoid_that_are_many_are_searched_in_small_batches(
    rnn, make, corpus, searched, monkeypatch
):
    machine = make(rnn, batch_sentences=8)
    asked = [
        dataclasses.replace(machine.default, text=line, avoid=("ab", "ba dc"))
        for line in corpus[:8]
    ]
    most = rules.num_entries([machine._plan(asked[0])] * 2)
    assert most >= 2 * 2 * 2 * 3
    monkeypatch.setattr(translator, "MAX_ENTRIES", most)
    machine.answer(asked)
    assert max(len(call["ids"]) for call in searched) == 2


def test_a_phrase_that_no_translation_has_room_for_is_not_looked_for(make, rnn):
    machine = make(rnn)
    asked = dataclasses.replace(machine.default, text="ab", avoid=("ab " * 500, "ba"))
    assert len(machine._planner.plan(asked).avoid) == 1


def test_what_normalisation_changes_is_avoided_in_both_forms(make, rnn, texts):
    asked = dataclasses.replace(make(rnn).default, text="ab", avoid=("ab²",))
    planned = make(rnn)._planner.plan(asked)
    assert sorted(texts.tgt.decode(phrase) for phrase in planned.avoid) == ["ab2", "ab²"]


def test_constraints_are_met_letter_by_letter(make, model):
    machine = make(model, max_length=39)
    for phrase in ("m²", "ab ½", "Ａ"):
        (outcome,) = machine.answer(
            [dataclasses.replace(machine.default, text="ab cd", constraints=(phrase,))]
        )
        assert outcome.error is None and phrase in outcome.translations[0].text
        (outcome,) = machine.answer(
            [dataclasses.replace(machine.default, text="ab cd", target_prefix=phrase)]
        )
        assert outcome.translations[0].text.startswith(phrase)


def test_avoided_phrases_do_not_arise_where_parts_meet(rnn, make, corpus):
    machine = make(rnn, max_src_tokens=16, long="split")
    asked = dataclasses.replace(machine.default, text=". ".join(corpus[:12]))
    (plain,) = machine.answer([asked])
    parts = [one.translations[0].text for one in machine._answer(machine._parts(asked))]
    joints = [f"{a.split()[-1]} {b.split()[0]}" for a, b in itertools.pairwise(parts) if a and b]
    only_there = [
        joint for joint in joints if not any(outcomes.occurrences(part, joint) for part in parts)
    ]
    assert only_there and plain.error is None
    (outcome,) = machine.answer([dataclasses.replace(asked, avoid=(only_there[0],))])
    assert outcome.error is not None and "where two parts of the line meet" in outcome.error


def test_a_source_word_that_is_to_be_avoided_is_not_copied(texts):
    explainer = explaining.Explainer(texts)
    unknown, ab = texts.tgt.vocab.unk_id, texts.tgt.encode("ab")
    tokens, sources = [unknown, *ab, unknown], ["Foo", *["-"] * len(ab), "bar"]
    for avoid, wanted in (
        ((), "Foo ab bar"),
        (("Foo",), f"{explaining.UNKNOWN} ab bar"),
        (("ab bar", "Fo"), f"Foo ab {explaining.UNKNOWN}"),
        (("ab",), "Foo ab bar"),  # which is there anyway
        (("Foo ab", "bar"), f"{explaining.UNKNOWN} ab {explaining.UNKNOWN}"),
    ):
        assert explainer._replaced(tokens, sources, avoid) == wanted


def _all() -> shortlists.Shortlist:
    """All tokens for each sentence, so that only the arithmetic is that of a shortlist."""
    return shortlists.Shortlist(torch.arange(310), torch.zeros((310, 1), dtype=torch.int64), 310)


@pytest.mark.parametrize(
    ("phrase", "is_closed"),
    [("{ab}", True), ("ab²", True), ("a'", False), ("ab-", False), ("(", False), ("\u4eca", False)],
)
def test_letters_go_on_behind_signs_that_lead_on_alone(make, rnn, corpus, phrase, is_closed):
    machine = make(rnn, max_length=30)
    asked = [
        dataclasses.replace(machine.default, text=line, constraints=(phrase,))
        for line in corpus[:20]
    ]
    assert machine._planner.plan(asked[0]).closed == (is_closed,)
    if is_closed:
        for outcome in machine.answer(asked):
            text = outcome.translations[0].text
            assert re.search(rf"{re.escape(phrase)}(?![a-zäß])", text), text


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("family", ["rnn", "cnn", "transformer"])
@pytest.mark.parametrize("has_shortlist", [False, True])
def test_in_lower_precisions_company_changes_little(
    make_model, texts, corpus, family, precision, has_shortlist, arithmetic
):
    """Sums over padding are rounded anew; that seldom moves a choice, and then to one as good.

    Random models have many translations that are nearly as good as the best.
    """
    if precision == "int8" and not packed.has_int8():
        pytest.skip("no int8 kernels here")
    model = make_model(family, dtype=torch.float32)
    low = devices.inference_arithmetic(precision, torch.device("cpu"))
    quantized.prepare(model, precision)
    machine = translator.Translator(
        model,
        texts,
        schema.DecodingConfig(**SETTINGS),
        low,
        shortlist=_all() if has_shortlist else None,
    )
    lines = corpus[:24]
    together = [best for (best,) in machine.translate(lines)]
    alone = [machine.translate([line])[0][0] for line in lines]
    judge = scorer.Scorer(make_model(family), texts, schema.DecodingConfig(**SETTINGS), arithmetic)
    sources = [texts.src.encode(line) for line in lines]
    scores = [judge.score_ids(sources, [one.tokens for one in own]) for own in (together, alone)]
    num_same = 0
    for one, other, near, far in zip(together, alone, *scores, strict=True):
        num_same += one.tokens == other.tokens
        assert near.score == pytest.approx(far.score, rel=0.05, abs=0.1)
        assert one.tokens != other.tokens or one.score == pytest.approx(other.score, rel=0.02)
    assert num_same >= 0.75 * len(lines)


def test_a_character_in_bytes_is_avoided_behind_punctuation(rnn, texts):
    planner = requests.Planner(rnn, texts.tgt)
    default = requests.Request("x", schema.DecodingConfig(**SETTINGS), avoid=("😀",))
    planned = planner.plan(default)
    assert planner.other_spellings(planned, [tuple(texts.tgt.encode("ab.😀"))])
    assert not planner.other_spellings(planned, [tuple(texts.tgt.encode("ab.😁"))])


def test_settings_of_their_own_for_each_line_are_not_kept_for_ever(make, rnn, monkeypatch):
    monkeypatch.setattr(requests, "MAX_KNOWN", 4)
    machine = make(rnn, sample=True)
    asked = [
        dataclasses.replace(
            machine.default,
            text="ab",
            decoding=machine.default.decoding.model_copy(update={"seed": n}),
        )
        for n in range(11)
    ]
    assert all(outcome.error is None for outcome in machine.answer(asked))
    assert len(machine._planner._known) <= 4
