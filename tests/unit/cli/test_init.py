import os
import re
from pathlib import Path

import pytest

from nmt import errors
from nmt.cli import init
from nmt.cli import main as cli
from nmt.config import loading
from nmt.training import preparation

LANGUAGES = ["--src-lang", "en", "--tgt-lang", "de"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_pairs(100)


def write_pairs(number: int, name: str = "train") -> None:
    Path(f"{name}.en").write_text("".join(f"a{i}\n" for i in range(number)))
    Path(f"{name}.de").write_text("".join(f"b{i}\n" for i in range(number)))


def run(*flags: str) -> int:
    return cli.main(["init", "--src", "train.en", "--tgt", "train.de", *LANGUAGES, *flags])


def test_two_files_make_a_configuration_that_loads(capsys):
    assert run() == 0
    config = loading.load("config.yaml")
    assert config.run_dir == "runs/config"
    assert (config.data.src_lang, config.data.tgt_lang) == ("en", "de")
    assert config.data.train[0].src == "data/config/train.en"
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "of the last 10 of 100 pairs, one half is held out for validation" in captured.err


def test_split_keeps_pairs_and_order():
    run()
    for side, letter in (("en", "a"), ("de", "b")):
        for name, begin, end in (("train", 0, 90), ("valid", 90, 95), ("test", 95, 100)):
            found = Path(f"data/config/{name}.{side}").read_text()
            assert found == "".join(f"{letter}{i}\n" for i in range(begin, end))


@pytest.mark.parametrize(
    ("pairs", "held_out"), [(3, 1), (19, 1), (40, 2), (20_000, 1000), (30_000, 1000)]
)
def test_held_out_share_is_bounded(pairs: int, held_out: int):
    write_pairs(pairs)
    run()
    for name in ("valid", "test"):
        assert len(Path(f"data/config/{name}.en").read_text().splitlines()) == held_out


def test_given_validation_files_are_taken_as_they_are():
    write_pairs(3, "valid")
    assert run("--valid-src", "valid.en", "--valid-tgt", "valid.de") == 0
    config = loading.load("config.yaml")
    assert (config.data.valid.src, config.data.train[0].tgt) == ("valid.en", "train.de")
    assert config.data.test is None
    assert not Path("data").exists()


@pytest.mark.parametrize("family", ["transformer", "rnn", "cnn"])
def test_configuration_shows_every_default_as_it_is(family: str):
    assert run("--family", family) == 0
    text = Path("config.yaml").read_text()
    config = loading.parse(text, "config.yaml")
    assert (config.model.encoder.type, config.model.decoder.type) == (family, family)
    lines = text.split("\n")
    commented = [
        number for number, line in enumerate(lines) if re.match(r" *# [a-z_]+: .*  # ", line)
    ]
    assert len(commented) > 60
    num_ignored = 0
    for number in commented:
        if lines[number].lstrip().startswith(("# test:", "# weight:")):
            continue
        one = [*lines]
        one[number] = one[number].replace("# ", "", 1)
        try:
            assert loading.parse("\n".join(one), "config.yaml") == config, lines[number]
        except errors.ConfigError as error:
            num_ignored += "would be ignored" in str(error)
            if "would be ignored" not in str(error):
                raise
    # Most of them belong to a knob that is off by default.
    assert num_ignored < len(commented) / 4


def test_examples_of_optional_keys_load_when_uncommented():
    run("--valid-src", "train.en", "--valid-tgt", "train.de")
    text = Path("config.yaml").read_text()
    text = text.replace("# test:", "test:").replace("# weight:", "weight:")
    config = loading.parse(text, "config.yaml")
    assert config.data.test is not None
    assert config.data.train[0].weight == 1.0


@pytest.mark.parametrize(("pairs", "size"), [(100, 400), (11_000, 3900), (30_000, 8000)])
def test_vocabulary_shrinks_with_the_corpus(pairs: int, size: int):
    write_pairs(pairs)
    run()
    assert loading.load("config.yaml").tokenizer.vocab_size == size


def test_existing_files_are_not_overwritten_without_force(capsys):
    Path("config.yaml").write_text("mine")
    assert run() == 2
    assert Path("config.yaml").read_text() == "mine"
    assert capsys.readouterr().err == (
        "nmt: config.yaml: exists already. Name another file with --output, or overwrite it "
        "with --force.\n"
    )
    assert run("--force") == 0
    Path("config.yaml").unlink()
    assert run() == 2
    assert "data/config/train.en: exists already" in capsys.readouterr().err


def test_split_never_overwrites_its_own_source(capsys):
    run()
    argv = ["--src", "data/config/train.en", "--tgt", "data/config/train.de", *LANGUAGES, "--force"]
    assert cli.main(["init", *argv]) == 2
    assert "would be overwritten by its own split" in capsys.readouterr().err
    assert len(Path("data/config/train.en").read_text().splitlines()) == 90


def test_output_may_lie_in_a_new_folder():
    assert run("--output", "new/toy.yaml") == 0
    config = loading.load("new/toy.yaml")
    assert config.run_dir == "runs/toy"
    assert config.data.valid.tgt == "new/data/toy/valid.de"
    assert config.data.test.src == "new/data/toy/test.en"
    assert Path("new/data/toy/valid.de").exists()


def test_one_language_on_both_sides_keeps_its_files_apart():
    assert run("--src-lang", "en", "--tgt-lang", "en") == 0
    config = loading.load("config.yaml")
    assert config.data.train[0].src == "data/config/train.src.en"
    assert (
        Path("data/config/valid.tgt.en").read_text() != Path("data/config/valid.src.en").read_text()
    )


@pytest.mark.parametrize("language", ["no", "yes", "null", "1"])
def test_names_that_yaml_could_misread_are_kept(language: str):
    assert run("--src-lang", language) == 0
    assert loading.load("config.yaml").data.src_lang == language


def test_names_with_special_characters_are_quoted():
    Path("a: # 'b'.en").write_text("x\n" * 3)
    argv = ["--src", "a: # 'b'.en", "--tgt", "a: # 'b'.en", *LANGUAGES]
    valid = ["--valid-src", "a: # 'b'.en", "--valid-tgt", "a: # 'b'.en"]
    assert cli.main(["init", *argv, *valid]) == 0
    assert loading.load("config.yaml").data.train[0].src == "a: # 'b'.en"


@pytest.mark.parametrize(
    ("prepare", "flags", "code", "expected"),
    [
        (lambda: Path("train.de").unlink(), [], 1, "nmt: train.de: no such file."),
        (
            lambda: Path("train.de").write_text("x\n"),
            [],
            1,
            "nmt: train.de: is not parallel to train.en (given: 1 and 100 lines).",
        ),
        (lambda: write_pairs(0), [], 1, "nmt: train.en: is empty."),
        (lambda: write_pairs(2), [], 1, "nmt: train.en: has too few lines to hold any out"),
        (lambda: None, ["--valid-src", "x"], 2, "nmt init: --valid-src and --valid-tgt: give both"),
        (lambda: None, ["--src-lang", "a/b"], 2, "nmt init: --src-lang: is no language code"),
        (lambda: Path("c").mkdir(), ["--output", "c"], 2, "nmt: c: is a folder."),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(prepare, flags, code, expected, capsys):
    prepare()
    assert run(*flags) == code
    error = capsys.readouterr().err
    assert error.startswith(expected)
    assert error.count("\n") == 1
    assert not Path("config.yaml").exists()
    assert not Path("data").exists()


def test_what_can_be_read_only_once_is_refused(capsys):
    write_pairs(40)
    Path("train.en").unlink()
    os.mkfifo("train.en")
    assert run() == 1
    assert "train.en: is no regular file" in capsys.readouterr().err


def test_invalid_bytes_are_replaced_and_counted(capsys):
    Path("train.en").write_bytes(b"\xff\n" * 100)
    assert run() == 0
    assert "100 lines were not valid UTF-8" in capsys.readouterr().err
    assert Path("data/config/valid.en").read_text(encoding="utf-8") == "�\n" * 5


def test_held_out_limit_is_what_the_help_says():
    assert (init.HELD_OUT_SHARE, init.MAX_HELD_OUT) == (20, 1000)


def test_every_character_has_room_in_the_vocabulary():
    letters = "".join(map(chr, range(0x4E00, 0x4E00 + 1500)))
    Path("train.en").write_text("".join(f"{letter} a\n" for letter in letters))
    Path("train.de").write_text("".join(f"b{i}\n" for i in range(1500)))
    assert run() == 0
    config = loading.load("config.yaml")
    assert 1760 < config.tokenizer.vocab_size < 2100
    preparation.make_tokenizers(config, Path("tokenizer"))


@pytest.mark.parametrize("flag", ["--src", "--valid-tgt"])
def test_a_file_elsewhere_is_refused_in_a_line(flag, capsys):
    assert run(flag, "https://host/x.en", "--valid-src", "train.en") == 2
    assert f"{flag}: wants a file of this machine" in capsys.readouterr().err
