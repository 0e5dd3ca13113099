"""Languages, tags, monolingual corpora and held-out lists: what goes together, and what does not."""

import pytest

from nmt import errors
from nmt.config import loading

DATA = """\
run_dir: r
data:
  src_lang: en
  tgt_lang: de
"""
BOTH = """\
  train:
    - {src: a.en, tgt: a.de, tgt_lang: de}
    - {src: a.de, tgt: a.en, src_lang: de, tgt_lang: en, tag: BT}
  valid:
    - {src: v.en, tgt: v.de}
    - {src: v.de, tgt: v.en, src_lang: de, tgt_lang: en}
"""
ONE = "  train: [{src: a.en, tgt: a.de}]\n  valid: {src: v.en, tgt: v.de}\n"
MONO = (
    "  train: [{mono: a.en, lang: en}, {mono: a.de, lang: de}]\n  valid: {mono: v.de, lang: de}\n"
)


def parse(text: str, *overrides: str):
    return loading.parse(DATA + text, "c.yaml", overrides)


def message(text: str, *overrides: str) -> str:
    with pytest.raises(errors.ConfigError) as caught:
        parse(text, *overrides)
    return str(caught.value)


def test_a_named_target_language_gives_every_source_a_tag():
    data = parse(BOTH).data
    assert data.languages == ("de", "en")
    assert [data.tags_of(entry) for entry in data.train] == [("<2de>",), ("<2en>", "<BT>")]
    assert data.reserved_pieces == ("<2de>", "<2en>", "<BT>")
    assert data.pair_names(data.valid_corpora) == ["en-de", "de-en"]
    # The others have the default direction.
    data = parse(BOTH, "data.train.0={src: a.en, tgt: a.de}").data
    assert data.languages == ("de", "en")
    assert data.tags_of(data.train[0]) == ("<2de>",)


def test_without_one_there_are_no_tags_but_those_that_are_asked_for():
    data = parse(ONE).data
    assert (data.languages, data.reserved_pieces) == ((), ())
    assert data.tags_of(data.train[0]) == ()
    data = parse(ONE, "data.train.0.tag=BT", "data.train.0.src_lang=fr").data
    assert data.tags_of(data.train[0]) == ("<BT>",)
    assert data.pair_names([data.train[0], data.train[0], *data.valid_corpora]) == [
        "fr-de", "fr-de.2", "en-de",
    ]  # fmt: skip


def test_monolingual_text_is_in_one_language_and_wants_a_mask():
    data = parse(MONO).data
    assert [data.pair_of(entry) for entry in data.train] == [("en", "en"), ("de", "de")]
    assert data.reserved_pieces == ("<2en>", "<2de>", "<mask>")
    assert data.noise.infill_rate == 0.35
    data = parse("  train: [{mono: a.de}]\n  valid: {src: v.en, tgt: v.de}\n").data
    assert data.reserved_pieces == ("<mask>",)


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        (BOTH, ["data.sampling_temperature=5"]),
        (ONE, []),
        (MONO, ["data.noise={mask_rate: 0.2, infill_rate: 0, unit: pieces}"]),
        (BOTH, ["data.test=[{src: a, tgt: b}]"]),
    ],
)
def test_a_configuration_survives_a_round_trip(text, overrides):
    config = parse(text, *overrides)
    written = loading.dump(config)
    assert loading.parse(written, "round trip") == config
    assert ("noise" in written) == ("mono" in text)


@pytest.mark.parametrize(
    ("text", "override", "wanted"),
    [
        (ONE, "data.noise.mask_rate=0.1", "data.noise: would be ignored, since no corpus is mono."),
        (MONO, "data.noise={infill_rate: 0}", ": wants a rate above 0"),
        (MONO, "data.noise={infill_rate: 0, mask_rate: 0.1, span_length: 2}", "infill_rate is 0"),
        (MONO, "data.noise={infill_rate: 0, permute_rate: 1, unit: words}", "but sentences is moved"),
        (MONO, "data.noise.mask_rate=1.0", ": wants less than 1"),
        (MONO, "data.train.0.src_lang=en", "mono: is in one language; write lang"),
        (MONO, "data.train.0.alignments=x", ": go with src and tgt"),
        (MONO, "data.test.mono=x", "data.test: mono has no references"),
        (ONE, "data.train.0.lang=de", ": is for mono; write src_lang"),
        (ONE, "data.train.0.mono=x", ": wants src and tgt together, or tsv"),
        (ONE, "data.train.0.tag=mask", ": wants letters, digits"),
        (ONE, "data.train.0.tag=<BT>", "(given: '<BT>')."),
        (ONE, "data.train.0.tgt_lang='x y'", ": is no language code"),
        (ONE, "data.valid.tgt_lang=de", "data.valid: tgt_lang would be ignored"),
        (ONE, "data.sampling_temperature=5", "would be ignored, since train has one language pair"),
        (BOTH, "data.sampling_temperature=0.5", "wants at least 1"),
        (BOTH, "data.valid.1.tgt_lang=enn", "(given: enn). Did you mean 'en'? Known: de, en."),
        (BOTH, "data.valid.0.scr=x", ": unknown key. Did you mean 'src'?"),
        (BOTH, "data.valid=[]", ": wants at least 1 entry"),
        (BOTH, "data.valid=x", ": wants a section of keys"),
        (BOTH, "data.test=[3]", ": wants a section of keys"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_at_its_place_in_one_line(text, override, wanted):
    found = message(text, override)
    assert override.partition("=")[0].split(".")[1] in found
    assert wanted in found
    assert "\n" not in found
    assert "corpus>" not in found and "corpora>" not in found


def test_temperature_and_weights_are_two_ways_to_say_one_thing():
    text = BOTH.replace("tgt: a.de,", "tgt: a.de, weight: 1,").replace(
        "tgt: a.en,", "tgt: a.en, weight: 2,"
    )
    assert "does not go with weights" in message(text, "data.sampling_temperature=2")


def test_paths_of_all_held_out_corpora_may_change_under_a_run():
    old = parse(BOTH, "data.test=[{src: a, tgt: b}]")
    new = parse(
        BOTH, "data.test=[{src: c, tgt: d}]", "data.valid.1.src=moved", "data.train.0.src=x"
    )
    assert loading.frozen_keys(old, new) == []
    assert loading.frozen_keys(parse(MONO), parse(MONO, "data.train.0.mono=moved")) == []
    guided = "training.guided_alignment_weight=0.1"
    old, new = (
        parse(ONE, f"data.train.0.alignments={name}", guided) for name in ("links", "moved")
    )
    assert loading.frozen_keys(old, new) == []
    for key in ("data.noise.mask_rate=0.1", "data.train.0.lang=fr", "data.train.0.tag=BT"):
        assert loading.frozen_keys(parse(MONO), parse(MONO, key)), key


SEPARATE = ["tokenizer.shared=false", "tokenizer.tgt_type=word"]


def test_a_separate_target_vocabulary_may_have_another_kind_of_pieces():
    config = parse(ONE, *SEPARATE, "tokenizer.type=char")
    assert loading.parse(loading.dump(config), "round trip") == config
    assert parse(ONE, *SEPARATE, "tokenizer.split_digits=true").tokenizer.split_digits
    assert parse(ONE, *SEPARATE, "tokenizer.sampling=src").tokenizer.sampling == "src"


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["tokenizer.tgt_type=word"], "would be ignored, since the vocabulary is shared"),
        ([*SEPARATE, "tokenizer.sampling=both"], "type word cuts a text in one way only"),
        ([*SEPARATE, "tokenizer.type=char", "tokenizer.sampling=src"], "type char cuts a text"),
        ([*SEPARATE, "tokenizer.type=char", "tokenizer.split_digits=true"], "split_digits"),
        (
            [*SEPARATE, "tokenizer.sampling=src", "tokenizer.sampling_nbest=3"],
            "has no list of best",
        ),
        (["tokenizer.model=m", "tokenizer.tgt_type=word"], "a ready SentencePiece model is taken"),
    ],
)
def test_kinds_that_do_not_fit_are_refused(overrides, wanted):
    assert wanted in message(ONE, *overrides)


def test_names_of_pairs_differ_also_where_codes_have_dots():
    data = parse(ONE, "data.tgt_lang=zh.Hans").data
    assert data.pair_names([data.train[0]] * 3) == ["en-zh.Hans", "en-zh.Hans.2", "en-zh.Hans.3"]
