"""What nmt/api.py promises to programs that import it."""

import inspect
import math
import random
import re
from pathlib import Path

import pytest
import torch

from nmt import api, errors
from nmt.checkpoint import folder, weights
from nmt.config import loading as config_loading
from nmt.inference import loading
from nmt.models import seq2seq
from nmt.text import sentencepiece_training, tokenizer

CONFIG = """\
run_dir: somewhere
data:
  src_lang: en
  tgt_lang: de
  train: [{src: a, tgt: b}]
  valid: {src: c, tgt: d}
tokenizer: {vocab_size: 60, byte_fallback: false}
model:
  encoder: {type: rnn, embedding_size: 8, hidden_size: 8}
  decoder: {type: rnn, embedding_size: 8, hidden_size: 8}
decoding: {beam_size: 3, max_length: 15, precision: fp64, length_penalty: 0.5}
"""


def _lines() -> list[str]:
    generator = random.Random(5)
    words = ["".join(generator.choices("abcdefg", k=generator.randint(1, 5))) for _ in range(40)]
    return [" ".join(generator.choices(words, k=generator.randint(1, 6))) for _ in range(100)]


LINES = _lines()


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as `nmt train` leaves it, with random weights."""
    path = tmp_path_factory.mktemp("api") / "run"
    path.mkdir()
    tokenizer.build_tokenizers(
        path / "tokenizer",
        sentencepiece_training.TokenizerSettings(vocab_size=60, byte_fallback=False),
        lambda: iter(LINES),
        lambda: iter(LINES),
        shared=True,
    )
    config = config_loading.parse(CONFIG, "config.yaml")
    torch.manual_seed(0)
    model = seq2seq.build(config.model, 60, 60, shared=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    folder.publish(
        path,
        config_text=config_loading.dump(config),
        tensors=weights.module_tensors(model),
        scores={},
        update=1,
    )
    return path


@pytest.fixture(scope="module")
def model(run_dir: Path) -> api.Model:
    return api.load(run_dir)


def test_public_names_are_exactly_those_listed():
    """Names may be added here on purpose; none may go."""
    own = {
        name
        for name, value in vars(api).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == "nmt.api"
    }
    assert own == {"Model", "Translation", "evaluate", "load"}
    methods = {name for name in vars(api.Model) if not name.startswith("_")}
    assert methods == {"translate", "translate_nbest", "translate_requests", "score"}
    assert list(api.Translation.__dataclass_fields__) == ["text", "score"]


def test_public_signatures_stay():
    signatures = {
        function.__qualname__: list(inspect.signature(function).parameters)
        for function in (
            api.load,
            api.evaluate,
            api.Model.translate,
            api.Model.translate_nbest,
            api.Model.score,
        )
    }
    assert signatures == {
        "evaluate": [
            *("hypotheses", "references", "metrics", "lowercase", "tokenize", "confidence"),
        ],
        "load": ["folder", "device", "precision"],
        "Model.translate": ["self", "lines", "tgt_lang", "decoding"],
        "Model.translate_nbest": ["self", "lines", "num_best", "tgt_lang", "decoding"],
        "Model.score": ["self", "src_lines", "tgt_lines", "tgt_lang"],
    }


def test_one_string_is_not_taken_for_a_list_of_letters(model):
    with pytest.raises(TypeError, match="wants a list of lines"):
        model.translate("a b")
    with pytest.raises(TypeError, match="wants a list of lines"):
        model.translate_nbest("a b", 2)
    with pytest.raises(TypeError, match="wants a list of lines"):
        model.score(["a b"], "a b")


def test_each_line_has_its_translation_in_order(model):
    lines = [LINES[0], "", LINES[1], "  ", LINES[2]]
    found = model.translate(lines)
    assert [isinstance(text, str) for text in found] == [True] * 5
    assert found[1] == found[3] == ""
    assert len(set(found)) == 4
    assert found[::2] == [model.translate([line])[0] for line in lines[::2]]
    assert model.translate(tuple(lines)) == found
    assert model.translate([]) == []


def test_nbest_lists_begin_with_the_translation_and_fall(model):
    lines = [*LINES[:4], ""]
    found = model.translate_nbest(lines, 3)
    assert [len(translations) for translations in found] == [3] * 5
    assert [translations[0].text for translations in found] == model.translate(lines)
    for translations in found[:4]:
        scores = [one.score for one in translations]
        assert scores == sorted(scores, reverse=True) and scores[0] > scores[2]
    assert found[4] == [api.Translation("", 0.0)] * 3


def test_decoding_keys_go_before_the_configuration_for_one_call(model):
    before = model.translate(LINES[:6])
    short = model.translate(LINES[:6], max_length=2)
    assert short != before
    assert max(len(text) for text in short) < max(len(text) for text in before)
    greedy = model.translate(LINES[:6], beam_size=1)
    assert greedy != before
    assert model.translate(LINES[:6]) == before
    plain, normal = (
        model.translate_nbest(LINES[:1], 1, beam_size=1, length_penalty=alpha, max_length=5)[0][0]
        for alpha in (0.0, 1.0)
    )
    assert plain.text == normal.text
    assert 1 < plain.score / normal.score <= 10 / 6


def test_scores_are_log_probabilities_of_target_lines(model):
    sources, targets = LINES[:5], LINES[5:10]
    found = model.score(sources, targets)
    assert all(isinstance(score, float) and score < 0 for score in found)
    assert found == pytest.approx(
        [model.score([s], [t])[0] for s, t in zip(sources, targets, strict=True)]
    )
    assert model.score([], []) == []
    assert model.score([""], [""])[0] < 0


def test_scores_are_plain_sums_whatever_the_length_penalty(run_dir, model):
    loaded = loading.load(run_dir)
    assert loaded.config.decoding.length_penalty == 0.5
    assert isinstance(loaded.model, seq2seq.Seq2Seq)
    for src, tgt, score in zip(LINES, LINES[5:8], model.score(LINES[:3], LINES[5:8]), strict=False):
        source = torch.tensor([[*loaded.texts.src.encode(src), 2]])
        wanted = torch.tensor([*loaded.texts.tgt.encode(tgt), 2])
        with torch.no_grad():
            inputs = torch.cat([torch.tensor([1]), wanted[:-1]]).unsqueeze(0)
            mask = torch.ones_like(source, dtype=torch.bool)
            logits = loaded.model.logits(loaded.model(source, mask, inputs)[0])[0]
        total = torch.nn.functional.cross_entropy(logits, wanted, reduction="sum")
        assert score == pytest.approx(-float(total))


def test_empty_targets_score_as_the_search_scores_them(model):
    """The one target whose ids are known for sure: with room for EOS alone it is all there is."""
    searched = model.translate_nbest(LINES[:3], 1, max_length=1, length_penalty=0.0)
    assert [found[0].text for found in searched] == [""] * 3
    forced = model.score(LINES[:3], [""] * 3)
    assert forced == pytest.approx([found[0].score for found in searched])


def test_unequal_numbers_of_lines_cannot_be_scored(model):
    for sources, targets in ((["a"], []), (["a"], ["b", "c"])):
        with pytest.raises(ValueError, match=f"{len(sources)} source .* {len(targets)} target"):
            model.score(sources, targets)


@pytest.mark.parametrize(
    ("decoding", "words"),
    [
        ({"beem_size": 2}, r"--beem-size: unknown option.*Did you mean '--beam-size'\?"),
        ({"beam_size": 0}, r"--beam-size: wants at least 1 \(given: 0\)"),
        ({"beam_size": 2.5}, r"--beam-size: wants a whole number \(given: 2\.5\)"),
        ({"length_penalty": math.inf}, r"--length-penalty: "),
        ({"min_length": 15}, r"--min-length: has to be below max_length"),
        ({"exact_stop": True, "patience": 2.0}, r"--patience: would be ignored"),
    ],
)
def test_wrong_settings_are_refused_by_name(model, decoding, words):
    with pytest.raises(errors.UsageError, match=words):
        model.translate(LINES[:1], **decoding)
    with pytest.raises(errors.UsageError, match=words):
        model.translate_nbest(LINES[:1], 1, **decoding)


def test_more_translations_than_the_beam_is_wide_are_refused(model):
    with pytest.raises(errors.UsageError, match="--nbest"):
        model.translate_nbest(LINES[:1], 4)
    assert len(model.translate_nbest(LINES[:1], 4, beam_size=4)[0]) == 4


def test_two_models_and_two_calls_do_not_disturb_each_other(run_dir, model):
    other = api.load(run_dir, precision="fp32")
    expected = model.translate(LINES[:3])
    other.translate(LINES[3:6], beam_size=1)
    assert model.translate(LINES[:3]) == expected


def test_a_folder_is_named_by_text_or_path_and_may_be_loaded_in_another_precision(run_dir):
    assert api.load(str(run_dir), device="cpu").translate(["abc"]) == api.load(run_dir).translate(
        ["abc"]
    )
    exact, rounded = (
        api.load(run_dir, precision=precision).score(LINES[:1], LINES[1:2])[0]
        for precision in ("fp64", "bf16")
    )
    assert exact != rounded
    assert rounded == pytest.approx(exact, rel=0.05)


def test_what_cannot_be_loaded_is_an_error_of_ours(run_dir, tmp_path):
    with pytest.raises(errors.ModelError, match="nothing-here"):
        api.load(tmp_path / "nothing-here")
    with pytest.raises(errors.UsageError, match="device"):
        api.load(run_dir, device="gpu")
    with pytest.raises(errors.UsageError, match="precision"):
        api.load(run_dir, device="cpu", precision="fp16")


def test_requests_are_answered_each_on_its_own(run_dir):
    model = api.load(run_dir)
    objects = [
        {"text": LINES[0], "id": 1},
        {"text": LINES[1], "constraints": ["b", "ca"], "nbest": 2},
        {"text": LINES[2], "target_prefix": "a b"},
        {"text": LINES[3], "constraints": ["日本"], "id": 4},
        {"text": LINES[4], "target_prefix": "日本"},
        {"text": LINES[5], "avoid": ["日本"]},
        {"text": LINES[6], "beam_size": "wide"},
        {"text": ""},
    ]
    answers = model.translate_requests(objects, beam_size=4)
    best = model.translate([LINES[0], LINES[5]], beam_size=4)
    assert answers[0]["translation"] == best[0] and answers[0]["id"] == 1
    assert all("b" in text and "ca" in text for text in answers[1]["translations"])
    assert len(answers[1]["scores"]) == 2
    assert answers[2]["translation"].startswith("a b")
    assert "constraints: the target vocabulary cannot spell it" in answers[3]["error"]
    assert answers[3]["id"] == 4
    assert "target_prefix: the target vocabulary cannot spell it" in answers[4]["error"]
    assert answers[5]["translation"] == best[1]
    assert "--beam-size: wants a whole number" in answers[6]["error"]
    assert answers[7] == {"translation": "", "score": 0.0}


def test_unknown_words_are_replaced_by_words_of_the_source(run_dir):
    model = api.load(run_dir)
    options = {"sample": True, "temperature": 5.0, "seed": 2}
    plain = model.translate(LINES, **options)
    replaced = model.translate(LINES, replace_unknown=True, **options)
    assert sum("\u2047" in text for text in plain) > 5
    for line, before, after in zip(LINES, plain, replaced, strict=True):
        if "\u2047" not in before:
            assert after == before
            continue
        known = [re.escape(part.strip()) for part in before.split("\u2047")]
        match = re.fullmatch(r"\s*(\S+)\s*".join(known), after)
        assert match is not None, (before, after)
        assert all(word in line.split() for word in match.groups())


def test_white_space_that_is_no_space_is_part_of_a_word(run_dir):
    model = api.load(run_dir)
    options = {"sample": True, "temperature": 5.0, "replace_unknown": True}
    lines = [f"{line} \u0085 a\u2028b \x1c" for line in LINES if line.strip()]
    for seed in range(4):
        assert len(model.translate(lines, seed=seed, **options)) == len(lines)


def test_what_needs_attention_is_refused_without_it(run_dir, monkeypatch):
    model = api.load(run_dir)
    monkeypatch.setattr(model._loaded.model, "attends", False)
    for name, value in (("alignments", True), ("replace_unknown", True), ("coverage_penalty", 0.2)):
        with pytest.raises(errors.UsageError, match=f"{name}: this model has no attention"):
            model.translate(LINES[:1], **{name: value})
        (answer,) = model.translate_requests([{"text": "a", name: value}])
        assert "no attention" in answer["error"]
    assert model.translate(LINES[:1], token_scores=True)[0] is not None


def test_a_source_of_no_word_leaves_unknown_pieces_as_they_are(run_dir, monkeypatch):
    model = api.load(run_dir)
    monkeypatch.setattr(
        "nmt.inference.alignments.best_sources", lambda rows, words: [-1] * len(rows)
    )
    options = {"sample": True, "temperature": 5.0, "seed": 2}
    plain = model.translate(LINES, **options)
    found = model.translate(LINES, replace_unknown=True, **options)
    assert [text.split() for text in found] == [
        text.replace("\u2047", " \u2047 ").split() for text in plain
    ]
