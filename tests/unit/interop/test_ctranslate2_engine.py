"""Lines through CTranslate2 follow the rules of our own translator; other meanings are refused."""

import dataclasses
import random
from pathlib import Path

import pytest
import torch

from nmt import errors
from nmt.config import schema
from nmt.interop import ctranslate2_engine, ctranslate2_folder, ctranslate2_spec


def settings(**changes: object) -> schema.DecodingConfig:
    given = {"beam_size": 5, "length_penalty": 0.0, "max_length": 40, "max_src_tokens": 30}
    return schema.DecodingConfig.model_validate({**given, **changes})


def texts(engine: ctranslate2_engine.Engine, lines: list[str]) -> list[str]:
    return [found[0].text for found in engine.translate(lines)]


def test_blank_lines_stay_blank_and_nothing_moves(exported: Path, corpus: list[str]):
    engine = ctranslate2_engine.load(exported, settings())
    wanted = texts(engine, corpus[:3])
    assert len(set(wanted)) == 3
    blanks = ["", " ", "\t", "\u2028", "\u3000", "\u0085", "\x0c", "\x0b\x1c", "\u00a0"]
    mixed = [*blanks, corpus[0], *blanks, corpus[1], corpus[2], *blanks]
    none = [""] * len(blanks)
    assert texts(engine, mixed) == [*none, wanted[0], *none, wanted[1], wanted[2], *none]
    assert engine.num_cut == 0
    assert engine.translate([]) == []
    assert texts(engine, blanks) == none


@pytest.mark.parametrize("batch", [{"batch_sentences": 1}, {"batch_sentences": 7}, {}])
def test_order_and_company_change_nothing(batch: dict[str, int], exported: Path, corpus: list[str]):
    small = settings(batch_tokens=100) if not batch else settings()
    lines = corpus[:30]
    shuffled = random.Random(1).sample(range(30), 30)
    alone = ctranslate2_engine.load(exported, settings(), batch_sentences=1)
    wanted = [texts(alone, [line])[0] for line in lines]
    engine = ctranslate2_engine.load(exported, small, **batch)
    found = texts(engine, [lines[index] for index in shuffled])
    assert found == [wanted[index] for index in shuffled]


def test_long_lines_are_cut_and_counted(exported: Path):
    engine = ctranslate2_engine.load(exported, settings(max_src_tokens=6))
    words = "abc def ga abc def ga abc def"
    ids = engine._texts.src.encode(words)
    assert len(ids) > 6
    cut = engine._texts.src.decode(ids[:5])
    assert texts(engine, [words, "a", words]) == texts(engine, [cut, "a", cut])
    assert engine.num_cut == 2
    # The limit of the folder counts where no other is given.
    assert ctranslate2_engine.load(exported)._max_src_tokens == 30


def test_lists_have_as_many_translations_as_asked(exported: Path, corpus: list[str]):
    engine = ctranslate2_engine.load(exported, settings(), num_best=3)
    (found,) = engine.translate([corpus[0]])
    assert len({translation.tokens for translation in found}) == 3
    assert found[0].score >= found[1].score >= found[2].score
    assert engine.translate([""])[0] == engine.translate([" "])[0]
    assert len(engine.translate([""])[0]) == 3


def test_greedy_scores_are_over_the_length_penalty_as_everywhere(exported: Path, corpus: list[str]):
    plain = ctranslate2_engine.load(exported, settings(beam_size=1, length_penalty=0.0))
    scaled = ctranslate2_engine.load(exported, settings(beam_size=1, length_penalty=1.0))
    for (one,), (other,) in zip(
        plain.translate(corpus[:5]), scaled.translate(corpus[:5]), strict=True
    ):
        assert other.log_probability == one.log_probability == one.score
        length = len(one.tokens) + 1
        assert other.score == pytest.approx(one.log_probability / ((5 + length) / 6))


def test_length_limits_are_kept(exported: Path, corpus: list[str]):
    short = ctranslate2_engine.load(exported, settings(max_length=4))
    assert max(len(found[0].tokens) for found in short.translate(corpus[:20])) == 3  # and EOS
    long = ctranslate2_engine.load(exported, settings(min_length=12))
    assert min(len(found[0].tokens) for found in long.translate(corpus[:20])) == 12


@pytest.mark.parametrize(
    ("changes", "num_best", "flag"),
    [
        ({"length_penalty": 1.0}, 1, "--length-penalty"),
        ({"patience": 2.0}, 1, "--patience"),
        ({"exact_stop": True}, 2, "--exact-stop"),
        ({}, 6, "--nbest"),
        ({"max_length": 1025}, 1, "--max-length"),
    ],
)
def test_what_means_something_else_is_refused(changes: dict, num_best: int, flag: str):
    with pytest.raises(errors.UsageError, match=f"^{flag}: .*given: "):
        ctranslate2_engine.check(settings(**changes), num_best, 1024)


def test_what_means_the_same_is_taken():
    ctranslate2_engine.check(settings(exact_stop=True), 1, 1024)
    ctranslate2_engine.check(settings(), 5, 1024)
    ctranslate2_engine.check(settings(max_length=2000), 1, None)
    # A length penalty chooses among hypotheses, of which greedy search has one.
    ctranslate2_engine.check(settings(beam_size=1, length_penalty=1.0), 1, 1024)


@pytest.mark.usefixtures("exported")
def test_devices_are_those_of_ctranslate2(monkeypatch):
    package = ctranslate2_spec.package()
    monkeypatch.setattr(package, "get_cuda_device_count", lambda: 0)
    assert ctranslate2_engine.resolve("auto") == torch.device("cpu")
    assert ctranslate2_engine.resolve("cpu") == torch.device("cpu")
    for name in ("cuda", "mps", "cuda:1", "tpu", "cpu:1"):
        with pytest.raises(errors.UsageError, match=f"--device: .*given: {name}"):
            ctranslate2_engine.resolve(name)
    monkeypatch.setattr(package, "get_cuda_device_count", lambda: 2)
    assert ctranslate2_engine.resolve("auto") == torch.device("cuda")
    assert ctranslate2_engine.resolve("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(errors.UsageError, match="--device"):
        ctranslate2_engine.resolve("cuda:x")


def test_a_model_that_does_not_load_is_one_line(exported: Path, tmp_path: Path):
    (tmp_path / "model.bin").write_bytes(b"nonsense")
    (tmp_path / "tokenizer").symlink_to(exported / "tokenizer")
    with pytest.raises(errors.ModelError, match=r"cannot load it \(.*\)\. Export"):
        ctranslate2_engine.Engine(tmp_path, settings(), (None, None), device=torch.device("cpu"))


def test_a_folder_begins_with_its_own_settings(exported: Path):
    note = ctranslate2_folder.read(exported)
    assert note.decoding_config().length_penalty == 0.0
    assert ctranslate2_engine.load(exported)._max_length == 40


def test_requests_are_answered_line_by_line(exported: Path, corpus: list[str]):
    machine = ctranslate2_engine.load(exported, settings())
    asked = [dataclasses.replace(machine.default, text=line) for line in [*corpus[:3], ""]]
    found = [outcome.translations for outcome in machine.answer(asked)]
    assert found == machine.translate([*corpus[:3], ""])
    assert all(outcome.error is None for outcome in machine.answer(asked))


@pytest.mark.parametrize(
    "change", [{"target_prefix": "a"}, {"constraints": ("a",)}, {"avoid": ("a",)}, {"num_best": 2}]
)
def test_requests_for_more_than_a_text_are_refused(exported: Path, change: dict):
    machine = ctranslate2_engine.load(exported, settings())
    with pytest.raises(errors.UsageError, match="take --engine nmt"):
        machine.answer([dataclasses.replace(machine.default, **change)])
    with pytest.raises(errors.UsageError, match="take --engine nmt"):
        machine.check(machine.default, with_constraints=True)
