"""Tags of target languages: put before sources, one for each model or line, refused in one line."""

import dataclasses
from pathlib import Path

import pytest

from nmt import errors
from nmt.config import corpora, noising, schema
from nmt.inference import alignments, held_out, scorer, texts, translator
from nmt.runtime import device as devices
from nmt.text import noise, sentencepiece_training, tokenizer, words

LINES = [f"the red fox number {number} jumps over lazy dogs." for number in range(60)]
KINDS = {"bpe": 90, "unigram": 43, "char": 200, "word": 200}


def build(folder: Path, kind: str, **settings: object) -> texts.Texts:
    tokenizer.build_tokenizers(
        folder,
        sentencepiece_training.TokenizerSettings(
            type=kind,
            vocab_size=KINDS[kind],
            byte_fallback=False,
            reserved=("<2de>", "<2zh-Hant>", "<mask>"),
            **settings,  # type: ignore[arg-type]
        ),
        lambda: iter(LINES),
        lambda: iter(LINES),
        shared=False,
    )
    src, tgt = (tokenizer.Tokenizer.load(folder, side) for side in ("src", "tgt"))
    return texts.Texts(src, tgt, ("de", "zh-Hant"))


@pytest.fixture
def both(tmp_path: Path) -> texts.Texts:
    return build(tmp_path / "t", "bpe")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tokenizer_keeps_tags_whole_even_where_it_changes_text(kind, tmp_path):
    found = build(tmp_path / "t", kind, normalization="nmt_nfkc_cf", lowercase=True)
    plain = found.src.encode(LINES[0])
    for language in ("de", "zh-Hant"):
        (ids,) = found.encode_sources([LINES[0]], [language])
        assert found.src.vocab.pieces[ids[0]] == f"<2{language}>"
        assert ids[1:] == plain
    assert "<2de>" not in found.tgt.vocab.pieces, "targets have no tags"


def test_text_that_spells_a_tag_has_its_piece(both):
    pieces = both.src.vocab.pieces
    assert "<2de>" in [pieces[token] for token in both.src.encode("<2de> the red fox")]


def test_lines_choose_for_themselves_and_blank_ones_stay_blank(both):
    de, zh = both.tags("de"), both.tags("zh-Hant")
    found = both.encode_sources(["the", "", "the", "  "], ["de", "de", "zh-Hant", "de"])
    (own,) = both.src.encode_batch(["the"])
    assert found == [[*de, *own], [], [*zh, *own], []]
    aimed = both.towards("zh-Hant")
    assert aimed.encode_sources(["the"]) == [[*zh, *own]]
    assert aimed.encode_sources(["the"], ["de"]) == [[*de, *own]]
    assert both.towards(None) is both


def test_the_only_language_is_meant_and_a_model_without_tags_has_none(both):
    single = dataclasses.replace(both, languages=("de",))
    assert single.tags() == both.tags("de")
    none = dataclasses.replace(both, languages=())
    assert none.tags() == []
    with pytest.raises(errors.UsageError, match=r"^tgt_lang: this model has one direction"):
        none.towards("de")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("zh-hant", "(given: zh-hant). Did you mean 'zh-Hant'? Known: de, zh-Hant."),
        ("xx", "(given: xx). Known: de, zh-Hant."),
        (None, "missing; this model translates into de, zh-Hant. Say which with --tgt-lang."),
    ],
)
def test_an_unknown_or_missing_language_is_one_line(given, wanted, both):
    with pytest.raises(errors.UsageError) as caught:
        both.towards(given).tags()
    assert str(caught.value).endswith(wanted)


def test_a_vocabulary_without_the_tag_is_one_line(texts):
    with pytest.raises(errors.ConfigError) as caught:
        texts.src.ids_of(["<2de>", "the", "<s>"])
    assert "(given: <2de>, the)" in str(caught.value)


def test_damage_is_the_same_each_time_and_spares_the_tag(both):
    (mask,) = both.src.ids_of([corpora.MASK])
    damage = noise.Noise(both.src.vocab, mask, noising.NoiseConfig())
    damaged = dataclasses.replace(both, damage=damage, tgt_lang="de")
    first = damaged.encode_sources(LINES)
    assert damaged.encode_sources(LINES[::-1]) == first[::-1]
    assert all(ids[:1] == both.tags("de") for ids in first)
    assert sum(mask in ids for ids in first) > 50
    assert first != both.encode_sources(LINES, ["de"] * len(LINES))


def test_a_model_is_shown_on_its_first_validation_corpus(both):
    data = schema.DataConfig.model_validate(
        {
            "src_lang": "en",
            "tgt_lang": "de",
            "train": ({"mono": "x", "lang": "zh-Hant"}, {"mono": "y", "lang": "de"}),
            "valid": ({"mono": "v", "lang": "zh-Hant"}, {"mono": "w", "lang": "de"}),
        }
    )
    shown = held_out.first_texts(data, both)
    assert shown.tgt_lang == "zh-Hant" and shown.damage is not None
    parallel = data.model_copy(update={"valid": schema.Corpus(src="a", tgt="b")})
    shown = held_out.first_texts(parallel, both)
    assert shown.tgt_lang == "de" and shown.damage is None


def test_words_are_counted_behind_the_tag(both, make_model, monkeypatch):
    sizes = (len(both.src.vocab), len(both.tgt.vocab))
    model = make_model("transformer", sizes=sizes)
    arithmetic = devices.inference_arithmetic("fp64", devices.resolve("cpu"))
    seen = []

    def align(attention_TS, src_words, tgt_words):
        seen.append((src_words, attention_TS.shape[1]))
        return ()

    monkeypatch.setattr(alignments, "align", align)
    for limit in (1024, 4):
        decoding = schema.DecodingConfig(alignments=True, max_length=5, max_src_tokens=limit)
        machine = translator.Translator(model, both.towards("de"), decoding, arithmetic)
        machine.translate(["the red fox"])
    pieces = both.src.surfaces("the red fox")
    numbers = [-1, *words.words_of(pieces)]
    assert seen[0] == (numbers, len(numbers) + 1)
    assert seen[-1] == (numbers[:3], 4), "a source that was cut has fewer"


def test_a_tag_changes_translations_and_scores_of_its_own_line_only(both, make_model):
    sizes = (len(both.src.vocab), len(both.tgt.vocab))
    model = make_model("transformer", sizes=sizes)
    arithmetic = devices.inference_arithmetic("fp64", devices.resolve("cpu"))
    decoding = schema.DecodingConfig(beam_size=2, max_length=9)
    machine = translator.Translator(model, both, decoding, arithmetic)
    asked = [
        dataclasses.replace(machine.default, text=LINES[0], tgt_lang=language)
        for language in ("de", "zh-Hant", None, "xx")
    ]
    found = machine.answer(asked)
    assert [outcome.error is None for outcome in found] == [True, True, False, False]
    scores = [found[place].translations[0].score for place in (0, 1)]
    assert scores[0] != scores[1]
    for place, language in enumerate(("de", "zh-Hant")):
        aimed = both.towards(language)
        (alone,) = translator.Translator(model, aimed, decoding, arithmetic).translate([LINES[0]])
        assert alone[0].score == pytest.approx(scores[place], abs=1e-9)
        forced = scorer.Scorer(model, aimed, decoding, arithmetic)
        (pair,) = forced.score_ids(aimed.encode_sources([LINES[0]]), [list(alone[0].tokens)])
        if len(alone[0].tokens) < 8:
            assert pair.score == pytest.approx(scores[place], abs=1e-9)
    with pytest.raises(errors.UsageError, match=r"tgt_lang: missing"):
        machine.translate([LINES[0]])
