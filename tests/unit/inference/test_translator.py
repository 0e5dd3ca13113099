"""Lines in, lines out: as many, in order, and each translated as if it were alone."""

import dataclasses
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from nmt import errors
from nmt.config import schema
from nmt.evaluation import mbr
from nmt.inference import outcomes, scorer, splitting, translator
from nmt.runtime import device as devices
from nmt.search import beam
from nmt.search import settings as search_settings

SETTINGS: dict[str, Any] = {"beam_size": 3, "max_length": 20}
BLANK = ["", " ", "   \t ", "\u3000", "\u2028", " \u0085 ", "\u200b", "\x0c", "\x1f"]
ODD = [
    "abc\u2028de",
    "abc\u0085de",
    "abc\x0cde",
    "abc\x00de",
    "\x00",
    "abc\r",
    "a\x1eb",
    "\ud800 lone",
    "🙂 日本 \ufffd",
    "  abc  ",
    "<s> </s> <pad> <unk>",
]

Make = Callable[..., translator.Translator]


def _assert_same(found: list, expected: list) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert [one.tokens for one in ours] == [one.tokens for one in theirs]
        assert [one.text for one in ours] == [one.text for one in theirs]
        assert [one.score for one in ours] == pytest.approx([one.score for one in theirs])


def test_lines_come_back_in_order_whatever_company_they_are_in(model, make, corpus):
    """float64, each family: batch size, neighbours and order change nothing."""
    lines = [*corpus[:12], "", *corpus[12:16], "  ", corpus[0]]
    expected = [make(model, num_best=2, batch_sentences=1).translate([line])[0] for line in lines]
    assert len({one[0].tokens for one in expected}) > 5  # they differ, so order is seen
    assert len({len(one[0].tokens) for one in expected}) > 2
    for batch_sentences, batch_tokens in ((None, 4096), (None, 1), (None, 100), (3, 4096), (1, 1)):
        machine = make(
            model, num_best=2, batch_sentences=batch_sentences, batch_tokens=batch_tokens
        )
        _assert_same(machine.translate(lines), expected)
    order = list(range(len(lines)))
    random.Random(0).shuffle(order)
    turned = make(model, num_best=2).translate([lines[index] for index in order])
    _assert_same(turned, [expected[index] for index in order])
    among_others = make(model, num_best=2).translate([*corpus[100:110], *lines, *corpus[50:60]])
    _assert_same(among_others[10:-10], expected)


def test_one_translator_gives_the_same_again(model, make, corpus):
    machine = make(model)
    first = machine.translate(corpus[:6])
    machine.translate(corpus[20:40])
    _assert_same(machine.translate(corpus[:6]), first)


@pytest.mark.parametrize("num_best", [1, 3])
def test_blank_lines_stay_blank_and_are_not_searched(rnn, make, corpus, searched, num_best):
    machine = make(rnn, num_best=num_best)
    found = machine.translate(BLANK)
    assert found == [[outcomes.Translation("", 0.0, 0.0, ())] * num_best] * len(BLANK)
    assert searched == []
    mixed = machine.translate([BLANK[0], corpus[0], BLANK[1], corpus[1], BLANK[2]])
    assert [one[0].text == "" for one in mixed[::2]] == [True] * 3
    _assert_same(mixed[1::2], machine.translate(corpus[:2]))


def test_no_lines_give_no_lines(rnn, make, searched):
    assert make(rnn).translate([]) == []
    assert searched == []


def test_odd_characters_make_no_lines_and_lose_none(model, make, corpus):
    lines = [*ODD, corpus[0]]
    found = make(model, min_length=1).translate(lines)
    assert len(found) == len(lines)
    for translations in found:
        assert len(translations) == 1
        assert not set(translations[0].text) & {"\n", "\r"}
        assert translations[0].tokens
    _assert_same(found[-1:], make(model, min_length=1).translate([corpus[0]]))


def test_longer_lines_are_cut_at_the_limit_and_counted(rnn, make, texts, corpus, searched):
    line = max(corpus[:20], key=len)
    ids = texts.src.encode(line)
    machine = make(rnn, max_src_tokens=len(ids))  # one too short, since EOS counts
    machine.translate([line])
    assert machine.num_cut == 1
    assert searched[-1]["ids"].tolist() == [[*ids[:-1], texts.src.vocab.eos_id]]
    machine.translate([line, "a", "", line])
    assert machine.num_cut == 3  # so far
    fitting = make(rnn, max_src_tokens=len(ids) + 1)
    fitting.translate([line, "", "a"])
    assert fitting.num_cut == 0
    assert searched[-1]["ids"][0].tolist() == [*ids, texts.src.vocab.eos_id]


def test_a_line_of_a_hundred_thousand_characters_is_one_line(model, make, corpus):
    machine = make(model, beam_size=1)
    found = machine.translate([corpus[0], "abc " * 25_000, corpus[1]])
    assert len(found) == 3
    assert machine.num_cut == 1
    _assert_same(found[::2], make(model, beam_size=1).translate([corpus[0], corpus[1]]))


def test_lines_are_cut_where_the_model_has_no_more_positions(make_model, make, searched):
    machine = make(make_model("cnn"), beam_size=1)
    machine.translate(["z " * 60, "z"])
    assert machine.num_cut == 1
    assert searched[0]["ids"].shape == (2, 40)
    assert machine.translate(["z " * 60])[0][0].tokens is not None


def test_only_end_of_sentence_is_left_of_a_limit_of_one(rnn, make, texts, corpus, searched):
    machine = make(rnn, max_src_tokens=1)
    machine.translate([corpus[0]])
    assert searched[0]["ids"].tolist() == [[texts.src.vocab.eos_id]]
    assert machine.num_cut == 1


def test_batches_go_longest_first_and_keep_the_budget_of_tokens(rnn, make, corpus, searched):
    """Padding counts, and so does every hypothesis of the beam."""
    make(rnn, batch_tokens=120).translate(corpus[:40])
    sizes = [call["ids"].shape for call in searched]
    assert sum(size[0] for size in sizes) == 40
    assert all(size[0] * size[1] * 3 <= 120 or size[0] == 1 for size in sizes)
    assert any(size[0] > 1 for size in sizes)
    lengths = [length for call in searched for length in call["mask"].sum(1).tolist()]
    assert lengths == sorted(lengths, reverse=True)
    # And each batch is as large as the budget lets it be.
    assert all((size[0] + 1) * size[1] * 3 > 120 for size in sizes[:-1])
    searched.clear()
    make(rnn, batch_sentences=16).translate(corpus[:40])
    assert [call["ids"].shape[0] for call in searched] == [16, 16, 8]


def test_settings_and_special_ids_reach_the_search(rnn, make, texts, corpus, searched):
    options = {
        "length_penalty": 0.3,
        "min_length": 2,
        "max_length_ratio": 1.5,
        "exact_stop": True,
    }
    make(rnn, num_best=2, **options).translate(corpus[:1])
    assert searched[0]["settings"] == search_settings.SearchSettings(
        beam_size=3, max_length=20, num_best=2, patience=1.0, **options
    )
    make(rnn, patience=2.5).translate(corpus[:1])
    assert searched[1]["settings"].patience == 2.5
    ids = texts.tgt.vocab
    special = searched[0]["special"]
    assert (special.bos, special.eos, special.pad) == (ids.bos_id, ids.eos_id, ids.pad_id)


def test_a_translation_is_its_tokens_decoded_with_their_score(model, make, texts, corpus):
    for line, (found,) in zip(corpus[:8], make(model).translate(corpus[:8]), strict=True):
        assert found.text == texts.tgt.decode(found.tokens)
        penalty = (5 + len(found.tokens) + 1) / 6
        assert found.score == pytest.approx(found.log_probability / penalty)
        assert found.log_probability < 0, line


def test_the_score_of_the_search_is_the_scorers_score(model, make, texts, arithmetic, corpus):
    lines = corpus[:8]
    machine = scorer.Scorer(model, texts, schema.DecodingConfig(), arithmetic)
    for translations in zip(*make(model, num_best=3).translate(lines), strict=True):
        forced = machine.score_ids(
            texts.src.encode_batch(lines), [list(found.tokens) for found in translations]
        )
        for found, pair in zip(translations, forced, strict=True):
            assert pair.log_probability == pytest.approx(found.log_probability, abs=1e-9)
            assert pair.score == pytest.approx(found.score, abs=1e-9)


def test_the_best_come_first_and_are_different(model, make, corpus):
    for found in make(model, num_best=3).translate(corpus[:10]):
        assert len(found) == 3
        assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
        assert len({one.tokens for one in found}) == 3


def test_what_the_search_did_not_find_is_empty_and_infinitely_bad(rnn, make, corpus):
    """With room for EOS alone there is one translation, the empty one."""
    found = make(rnn, num_best=3, max_length=1).translate(corpus[:2])
    missing = outcomes.Translation("", -math.inf, -math.inf, ())
    for translations in found:
        assert translations[0].tokens == () and math.isfinite(translations[0].score)
        assert translations[1:] == [missing, missing]


def test_more_translations_than_the_beam_is_wide_are_refused(rnn, make):
    with pytest.raises(errors.UsageError, match=r"^--nbest: .*\(given: 4, beam 3\)"):
        make(rnn, num_best=4)
    make(rnn, num_best=3)


def test_a_shortest_length_that_the_model_cannot_reach_is_refused(make_model, make):
    model = make_model("cnn")
    with pytest.raises(errors.UsageError, match=r"40.*given: 40"):
        make(model, min_length=40, max_length=99)
    make(model, min_length=39, max_length=99)
    make(make_model("rnn"), min_length=40, max_length=99)


@pytest.mark.parametrize("family", ["rnn", "cnn", "transformer"])
def test_lower_precisions_translate_every_line(make_model, texts, corpus, family):
    model, scores = make_model(family, dtype=torch.float32), {}
    for precision in ("fp32", "bf16"):
        machine = translator.Translator(
            model,
            texts,
            schema.DecodingConfig(**SETTINGS),
            devices.inference_arithmetic(precision, torch.device("cpu")),
            num_best=2,
        )
        found = machine.translate(corpus[:6])
        assert [len(translations) for translations in found] == [2] * 6
        scores[precision] = [one.score for translations in found for one in translations]
        assert all(math.isfinite(score) for score in scores[precision])
    assert scores["bf16"] != scores["fp32"]


@pytest.mark.parametrize("metric", mbr.METRICS)
@pytest.mark.parametrize("weights", mbr.WEIGHTS)
def test_minimum_bayes_risk_orders_what_the_search_finds(rnn, make, corpus, metric, weights):
    settings = {"beam_size": 6, "max_length": 20}
    plain = make(rnn, num_best=6, **settings).translate(corpus[:20])
    risk = mbr.Settings(metric, weights)
    found = make(rnn, num_best=2, risk=risk, **settings).translate([*corpus[:20], ""])
    assert found.pop() == [outcomes.Translation("")] * 2
    changed = 0
    for candidates, chosen in zip(plain, found, strict=True):
        real = [one for one in candidates if math.isfinite(one.score)]
        utilities = mbr.expected_utilities(
            [one.text for one in real], [one.log_probability for one in real], risk
        )
        order = mbr.ranking(utilities)[:2]
        assert [one.text for one in chosen] == [real[place].text for place in order]
        assert [one.utility for one in chosen] == [utilities[place] for place in order]
        assert [one.score for one in chosen] == [real[place].score for place in order]
        changed += chosen[0].text != candidates[0].text
    assert changed or weights == "model"


def test_candidates_fit_between_nbest_and_the_beam(rnn, make):
    with pytest.raises(errors.UsageError, match=r"--mbr-candidates: .*given: 4, beam 3"):
        make(rnn, risk=mbr.Settings(num_candidates=4))
    with pytest.raises(errors.UsageError, match=r"--nbest: .*given: 3 of 2"):
        make(rnn, num_best=3, risk=mbr.Settings(num_candidates=2))
    make(rnn, num_best=2, risk=mbr.Settings(num_candidates=2))


def test_long_lines_are_translated_in_parts_that_fit(model, make, texts, corpus):
    """Each part as if it were alone, joined by a space; lines that fit are left as they are."""
    limits = {"max_src_tokens": 16, "long": "split"}
    line = ". ".join(corpus[:12])
    assert len(texts.src.encode(line)) > 40
    machine = make(model, **limits)
    first, short, blank = machine.translate([line, " abc", " "])
    assert (machine.num_split, machine.num_cut) == (1, 0)

    def count(several):
        return [len(texts.src.encode(text)) for text in several]

    parts = splitting.split(line, 15, count)
    assert len(parts) > 2
    alone = [found[0] for found in make(model, max_src_tokens=16).translate(parts)]
    assert first[0].text == " ".join(found.text for found in alone if found.text)
    assert first[0].score == pytest.approx(sum(found.score for found in alone))
    assert first[0].log_probability == pytest.approx(sum(one.log_probability for one in alone))
    assert short[0].tokens == make(model).translate([" abc"])[0][0].tokens
    assert blank == [outcomes.Translation("")]
    cut = make(model, max_src_tokens=16)
    cut.translate([line])
    assert (cut.num_split, cut.num_cut) == (0, 1)


def test_nbest_of_a_split_line_are_the_nth_of_its_parts(rnn, make, corpus):
    line = ". ".join(corpus[:12])
    risk = mbr.Settings()
    machine = make(rnn, num_best=3, risk=risk, max_src_tokens=16, long="split")
    (found,) = machine.translate([line])
    assert len(found) == 3
    utilities = [one.utility for one in found if one.utility is not None]
    assert utilities and utilities == sorted(utilities, reverse=True)
    scores = [one.score for one in make(
        rnn, num_best=3, max_src_tokens=16, long="split"
    ).translate([line])[0]]  # fmt: skip
    assert scores == sorted(scores, reverse=True)


def test_a_split_line_refuses_what_parts_cannot_have(rnn, make, corpus):
    machine = make(rnn, max_src_tokens=16, long="split", token_scores=True)
    long = dataclasses.replace(machine.default, text=". ".join(corpus[:12]))
    prefixed = dataclasses.replace(long, target_prefix=corpus[0])
    constrained = dataclasses.replace(long, constraints=(corpus[0].split()[0],))
    short = dataclasses.replace(prefixed, text=corpus[1])
    cut = dataclasses.replace(
        prefixed, decoding=long.decoding.model_copy(update={"long": "truncate"})
    )
    answers = machine.answer([prefixed, long, constrained, short, cut])
    assert [(one.error or "").split(":")[0] for one in answers] == [
        "target_prefix", "", "constraints", "", ""
    ]  # fmt: skip
    assert (machine.num_split, machine.num_cut) == (1, 1)
    (whole,) = answers[1].translations
    assert len(whole.token_scores) == len(whole.pieces) > 20
    assert sum(whole.token_scores) == pytest.approx(whole.log_probability, abs=1e-3)


def test_minimum_bayes_risk_chooses_among_samples(rnn, make, corpus):
    settings = {"sample": True, "seed": 3, "max_length": 12}
    drawn = make(rnn, num_best=outcomes.NUM_SAMPLES, **settings).translate(corpus[:4])
    found = make(rnn, risk=mbr.Settings(), **settings).translate(corpus[:4])
    nine = make(rnn, num_best=9, **settings).translate(corpus[:4])
    few = make(rnn, risk=mbr.Settings(num_candidates=9), **settings).translate(corpus[:4])
    for samples, (best,), fewer, (other,) in zip(drawn, found, nine, few, strict=True):
        for chosen, among in ((best, samples), (other, fewer)):
            utilities = mbr.expected_utilities(
                [one.text for one in among], [0.0] * len(among), mbr.Settings()
            )
            assert chosen.utility == max(utilities)
            assert chosen.text == among[utilities.index(max(utilities))].text


def test_a_batch_that_does_not_fit_is_searched_in_parts(rnn, make, corpus, monkeypatch):
    machine = make(rnn, batch_sentences=8)
    lines = corpus[:8]
    wanted = machine.translate(lines)
    search, sizes = beam.search, []

    def too_large(model, src_BS, src_mask_BS, requests, ids):
        sizes.append(len(requests))
        if len(requests) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")
        return search(model, src_BS, src_mask_BS, requests, ids)

    monkeypatch.setattr(beam, "search", too_large)
    _assert_same(machine.translate(lines), wanted)
    assert sizes == [8, 4, 2, 2, 4, 2, 2]


def test_a_line_that_does_not_fit_harms_no_other(rnn, make, corpus, monkeypatch):
    machine = make(rnn, batch_sentences=3)
    search = beam.search

    def too_wide(model, src_BS, src_mask_BS, requests, ids):
        if requests[0].settings.beam_size == 7:
            raise MemoryError
        return search(model, src_BS, src_mask_BS, requests, ids)

    monkeypatch.setattr(beam, "search", too_wide)
    asked = [dataclasses.replace(machine.default, text=line) for line in corpus[:3]]
    decoding = machine.default.decoding.model_copy(update={"beam_size": 7})
    asked[1] = dataclasses.replace(asked[1], decoding=decoding)
    first, second, third = machine.answer(asked)
    assert second.translations == [] and "does not fit in memory" in str(second.error)
    _assert_same(
        [first.translations, third.translations], machine.translate([corpus[0], corpus[2]])
    )


def test_an_error_that_is_none_of_memory_is_raised(rnn, make, corpus, monkeypatch):
    def wrong(*args):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(beam, "search", wrong)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        make(rnn).translate(corpus[:2])


def test_what_is_read_of_a_long_line_stands_as_it_was_written(rnn, make, texts):
    machine = make(rnn, max_src_tokens=12)
    request = dataclasses.replace(machine.default, text="Žižek ab " + "ab " * 40)
    found = machine.readable(request)
    assert request.text.startswith(found) and found.startswith("Žižek ab")
    assert len(texts.src.encode(found)) <= 11 < len(texts.src.encode(request.text))
    short = dataclasses.replace(request, text="ab ab")
    assert machine.readable(short) == "ab ab"
