"""YAML as it is written: types, positions, mistakes, files."""

import pytest

from nmt import errors
from nmt.config import loading, schema

MINIMAL = """\
run_dir: runs/toy
data:
  src_lang: en
  tgt_lang: de
  train: [{src: train.en, tgt: train.de}]
  valid: {src: valid.en, tgt: valid.de}
"""


def parse(text: str = MINIMAL, *overrides: str) -> schema.Config:
    return loading.parse(text, "toy.yaml", overrides)


def message(text: str = MINIMAL, *overrides: str) -> str:
    with pytest.raises(errors.ConfigError) as caught:
        loading.parse(text, "toy.yaml", overrides)
    return str(caught.value)


@pytest.mark.parametrize("text", ["1e-3", "0.001", "1.0E-3", ".001"])
def test_floats_of_every_notation_are_floats(text: str):
    assert parse(MINIMAL + f"training:\n  learning_rate: {text}\n").training.learning_rate == 0.001


@pytest.mark.parametrize("language", ["no", "yes", "on", "off", "y", "NO"])
def test_language_codes_stay_text(language: str):
    config = parse(MINIMAL.replace("src_lang: en", f"src_lang: {language}"))
    assert config.data.src_lang == language
    assert loading.parse(loading.dump(config), "again") == config


def test_yes_is_no_boolean():
    assert message(MINIMAL + "tokenizer: {lowercase: yes}\n") == (
        "toy.yaml:7 tokenizer.lowercase: wants true or false (given: 'yes')."
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "toy.yaml: is empty. A configuration is a YAML mapping."),
        ("# nothing\n", "toy.yaml: is empty. A configuration is a YAML mapping."),
        ("- a\n", "toy.yaml:1: is no mapping. A configuration is lines of `key: value`."),
        ("a: 1\nb:\n\tc: 1\n", "toy.yaml:3: no valid YAML: a tab. Indent with spaces."),
        ("a: 1\nb: c: d\n", "toy.yaml:2: no valid YAML: mapping values are not allowed here."),
        (
            "a:\n  b: 1\n  b: 2\n",
            "toy.yaml:3: a.b stands here twice, first in line 2. Remove one of them.",
        ),
        (
            "a: !!python/name:os.system x\n",
            "toy.yaml:1: tags are not allowed (given: tag:yaml.org,2002:python/name:os.system). "
            "Write plain values.",
        ),
        ("a: 1\nb: \x07\n", "toy.yaml:2: no valid YAML: a control character (given: U+0007). "
         "Remove it."),
        ("a: &x [*x]\n", "toy.yaml:1: an anchor that repeats itself. Write the values out."),
        ("[a]: 1\n", "toy.yaml:1: a key that is no text. Write `key: value`."),
        ('a: "\\0"\n', "toy.yaml:1: a character that no text can hold. Remove it."),
        ("a: " + "[" * 1000, "toy.yaml:1: is nested too deeply. Write it flatter."),
    ],
)  # fmt: skip
def test_bad_yaml_is_one_line_with_its_place(text: str, expected: str):
    assert message(text) == expected


def test_anchors_that_multiply_are_refused():
    levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "an anchor that repeats itself" in message("l0: &l0 [1]\n" + "\n".join(levels))


def test_anchors_and_merges_work():
    text = MINIMAL + (
        "model:\n  encoder: &base {type: rnn, num_layers: 2}\n"
        "  decoder:\n    <<: *base\n    num_layers: 3\n"
    )
    model = parse(text).model
    assert (model.encoder.type, model.decoder.type) == ("rnn", "rnn")
    assert (model.encoder.num_layers, model.decoder.num_layers) == (2, 3)


def test_load_reads_a_file_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())
    assert loading.load(path, ["seed=3"]).seed == 3


def test_files_that_cannot_be_read_are_one_line(tmp_path):
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"run_dir: \xfc\n")
    cases = {
        tmp_path / "missing.yaml": "there is no such file",
        tmp_path: "is a folder",
        latin: "is not UTF-8 (byte 10)",
        "nul\0.yaml": "cannot be read",
    }
    for path, expected in cases.items():
        with pytest.raises(errors.ConfigError) as caught:
            loading.load(path)
        assert expected in str(caught.value)
        assert "\n" not in str(caught.value)
