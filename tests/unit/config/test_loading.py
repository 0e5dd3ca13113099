import itertools

import pytest
import yaml

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


def test_minimal_configuration_takes_every_default():
    config = parse()
    assert config.training == schema.TrainingConfig()
    assert config.decoding == schema.DecodingConfig()
    assert config.data.train == (schema.TrainCorpus(src="train.en", tgt="train.de"),)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("training.max_updates=abc", "wants a whole number (given: 'abc')."),
        ("training.max_updates='5'", "wants a whole number (given: '5')."),
        ("training.max_updates=3.5", "wants a whole number (given: 3.5)."),
        ("training.max_updates=3.0", "wants a whole number (given: 3.0)."),
        ("training.max_updates=true", "wants a whole number (given: true)."),
        ("training.max_updates=0", "wants at least 1 (given: 0)."),
        ("training.learning_rate=0", "wants more than 0 (given: 0)."),
        ("training.learning_rate=.inf", "wants a finite number (given: .inf)."),
        ("training.learning_rate=true", "wants a number (given: true)."),
        ("training.label_smoothing=1", "wants less than 1 (given: 1)."),
        ("tokenizer.character_coverage=2", "wants at most 1 (given: 2)."),
        ("training.betas=[0.9]", "wants 2 entries (given: [0.9])."),
        ("training.betas=[0.9, 0.9, 0.9]", "wants at most 2 entries (given: [0.9, 0.9, 0.9])."),
        ("training.betas=0.9", "wants a list (given: 0.9)."),
        ("data.train=[]", "wants at least 1 entry (given: [])."),
        ("data.src_lang=''", "may not be empty."),
        ("run_dir=5", "wants text (given: 5). Put it in quotes."),
        ("seed=null", "wants a whole number (given: null)."),
        ("training=5", "wants a section of keys (given: 5)."),
        ("model.encoder.num_layers='3'", "wants a whole number (given: '3')."),
        ("model.encoder.num_layers=true", "wants a whole number (given: true)."),
        ("model.encoder=rnn", "wants a section of keys (given: 'rnn')."),
        (
            "model.tie_embeddings=al",
            "wants one of auto, none, decoder, all (given: 'al'). Did you mean 'all'?",
        ),
    ],
)
def test_wrong_values_are_explained_at_the_override(setting: str, expected: str):
    assert message(MINIMAL, setting) == f"--set {setting}: {expected}"


def test_wrong_value_of_a_file_is_explained_at_its_line():
    text = MINIMAL + "training:\n  batch_tokens: 10\n  max_updates: ten\n"
    assert message(text) == "toy.yaml:9 training.max_updates: wants a whole number (given: 'ten')."


def test_unknown_option_of_a_family_names_the_nearest_and_all_of_its_options():
    text = MINIMAL + "model:\n  encoder:\n    type: rnn\n    layerz: 3\n"
    assert message(text) == (
        "toy.yaml:10 model.encoder.layerz: unknown key for type rnn. Did you mean 'num_layers'? "
        "Known: type, cell, num_layers, embedding_size, hidden_size, bidirectional, "
        "reverse_source, dropout."
    )


def test_unknown_key_that_stands_elsewhere_names_where():
    assert "Did you mean 'training.max_updates'?" in message(MINIMAL + "max_updates: 3\n")


def test_unknown_key_comes_before_the_missing_one_that_it_causes():
    first, second = message(MINIMAL.replace("run_dir", "rundir")).split("\n")
    assert first.startswith("toy.yaml:1 rundir: unknown key. Did you mean 'run_dir'?")
    assert second.startswith("toy.yaml:1 run_dir: missing")


def test_missing_key_is_placed_at_its_section():
    assert message(MINIMAL.replace("  tgt_lang: de\n", "")) == (
        "toy.yaml:2 data.tgt_lang: missing; it has no default "
        "(target language, for names and messages). Add it."
    )


def test_unknown_family_names_the_known_ones():
    assert message(MINIMAL, "model.decoder.type=cnnn") == (
        "--set model.decoder.type=cnnn: no decoder of this type (given: cnnn). "
        "Known: cnn, rnn, transformer. Did you mean 'cnn'?"
    )


def test_rules_between_options_are_placed_at_their_key():
    text = MINIMAL + "model:\n  encoder:\n    num_heads: 5\n"
    assert message(text) == (
        "toy.yaml:9 model.encoder.num_heads: has to divide hidden_size (given: 5 heads, width 256)."
    )


def test_at_most_five_mistakes_are_listed_and_the_others_counted():
    wrong = "".join(f"  wrong{number}: 1\n" for number in range(7))
    lines = message(MINIMAL + "training:\n" + wrong).split("\n")
    assert len(lines) == 5
    assert lines[-1].endswith("(And 2 more mistakes.)")


def test_sections_with_a_header_only_are_defaults():
    assert parse(MINIMAL + "training:\ndecoding:\nmodel:\n  encoder:\n") == parse()


def test_overrides_go_before_the_file_and_reach_lists():
    config = parse(
        MINIMAL, "data.train.0.src=x", "training.max_updates=7", "decoding={beam_size: 2}"
    )
    assert config.data.train[0].src == "x"
    assert config.training.max_updates == 7
    assert config.decoding.beam_size == 2


def test_last_override_of_a_key_wins():
    assert parse(MINIMAL, "seed=1", "seed=2").seed == 2


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("seed", "wants key=value, such as training.max_updates=100."),
        ("a..b=1", "wants key=value, such as training.max_updates=100."),
        ("=1", "wants key=value, such as training.max_updates=100."),
        ("run_dir.x=1", "run_dir holds a value, not keys (given: 'runs/toy'). Set run_dir itself."),
        (
            "data.train.1.src=x",
            "data.train has no entry of this number (given: 1). Entries: 0 to 0.",
        ),
        ("seed=[", "no valid YAML: expected the node content, but found '<stream end>'."),
        (
            "seed=!!int 5",
            "tags are not allowed (given: tag:yaml.org,2002:int). Write plain values.",
        ),
    ],
)
def test_malformed_overrides_are_named(setting: str, expected: str):
    assert message(MINIMAL, setting) == f"--set {setting}: {expected}"


def test_override_of_an_unknown_key_gives_the_nearest():
    text = message(MINIMAL, "training.max_update=1")
    assert text.startswith("--set training.max_update=1: unknown key. Did you mean 'max_updates'?")


def test_mistake_inside_an_overriding_mapping_names_its_key():
    text = message(MINIMAL, "tokenizer={typ: bpe}")
    assert text.startswith("--set tokenizer={typ: bpe}: tokenizer.typ: unknown key.")


def test_mistake_of_a_section_that_only_overrides_made_is_placed_there():
    assert message(MINIMAL, "data.test.src=x") == (
        "--set data.test.src=x: data.test: wants src and tgt together, or tsv, or jsonl, "
        "or mono (given: src)."
    )


IGNORED = [
    ("training.weight_decay=0.01", "only optimizers adamw and muon decay weights"),
    ("training.plateau_factor=0.5", "only schedule plateau uses it"),
    ("decoding={exact_stop: true, patience: 1.0}", "exact_stop has a rule of its own"),
    ("tokenizer.tgt_vocab_size=100", "the vocabulary is shared"),
    ("model.encoder.max_positions=1024", "sinusoidal positions have no limit"),
    (
        "model.encoder={type: rnn, reverse_source: false}",
        "a bidirectional encoder reads the source backwards anyway",
    ),
]


@pytest.mark.parametrize(("setting", "reason"), IGNORED)
def test_settings_that_would_be_ignored_are_errors_even_at_their_default(setting: str, reason: str):
    text = message(MINIMAL, setting)
    assert text.startswith(f"--set {setting}: ")
    assert text.endswith(f"would be ignored, since {reason}. Remove it.")


@pytest.mark.parametrize(
    ("rest", "ignored", "setting"),
    [
        ("tokenizer: {shared: true", ", tgt_vocab_size: 100", "tokenizer.tgt_vocab_size=null"),
        (
            "training: {schedule: linear, max_updates: 9",
            ", cooldown_updates: 3",
            "training.cooldown_updates=0",
        ),
    ],
)
def test_what_would_be_ignored_is_taken_back(rest: str, ignored: str, setting: str):
    text = MINIMAL + rest + ignored + "}"
    assert "would be ignored" in message(text)
    assert parse(text, setting) == parse(MINIMAL + rest + "}")


def test_ignored_setting_of_a_file_is_placed_at_its_line():
    assert message(MINIMAL + "training:\n  weight_decay: 0.01\n") == (
        "toy.yaml:8 training.weight_decay: would be ignored, since only optimizers adamw and muon decay "
        "weights. Remove it."
    )


FAMILIES = ["rnn", "cnn", "transformer"]
VARIANTS = [
    *([f"model.encoder.type={e}", f"model.decoder.type={d}"]
      for e, d in itertools.product(FAMILIES, FAMILIES)),
    ["tokenizer.model=bpe.model"],
    ["tokenizer.model=bpe.model", "tokenizer.lowercase=true"],
    ["tokenizer={src_model: a.model, tgt_model: b.model}"],
    ["tokenizer.shared=false"],
    ["tokenizer.shared=false", "tokenizer.tgt_vocab_size=100"],
    ["tokenizer.type=char"],
    ["tokenizer.type=word", "tokenizer.shared=false"],
    ["tokenizer.user_defined_symbols=['1e-3', 'no', '', 'ü\u2028 ', '0x1', '5', '.inf', '~']"],
    ["training.optimizer=adamw", "training.weight_decay=1e-17"],
    ["training.schedule=plateau"],
    ["training.schedule=cosine", "training.min_learning_rate=1e-20"],
    ["training.max_updates=null", "training.max_epochs=3"],
    ["training.clip_norm=null", "training.learning_rate=0.30000000000000004"],
    ["decoding.exact_stop=true"],
    ["data.test={tsv: 'a: b # c'}"],
    ["data.train=[{tsv: a, weight: 1}, {jsonl: '1e5', weight: 2.5}]"],
    ["model.encoder={type: transformer, positions: learned, max_positions: 50}"],
    ["model.encoder={type: rnn, bidirectional: false, reverse_source: true}"],
    ["run_dir='1e-3'", "data.src_lang='null'", "data.tgt_lang='1_000'"],
    ["run_dir='a\nb\té'"],
]  # fmt: skip


@pytest.mark.parametrize("overrides", VARIANTS)
def test_dump_is_read_back_as_the_same_configuration(overrides: list[str]):
    config = parse(MINIMAL, *overrides)
    text = loading.dump(config)
    assert loading.parse(text, "dumped") == config
    assert loading.dump(loading.parse(text, "dumped")) == text


def test_dump_holds_every_effective_key_in_schema_order():
    data = yaml.safe_load(loading.dump(parse()))
    assert list(data) == list(schema.Config.model_fields)
    ignored = schema.DecodingConfig().inapplicable()
    assert {"temperature", "diversity_penalty"} < set(ignored)
    assert list(data["decoding"]) == [
        key for key in schema.DecodingConfig.model_fields if key not in ignored
    ]
    training = [key for key in schema.TrainingConfig.model_fields if key in data["training"]]
    assert list(data["training"]) == training
    assert "weight_decay" not in data["training"]
    assert data["data"]["train"] == [{"src": "train.en", "tgt": "train.de"}]
    assert data["training"]["max_epochs"] is None


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["seed=2"], ["seed"]),
        (["training.betas=[0.9, 0.99]"], ["training.betas"]),
        (["model.encoder.type=rnn"], ["model.encoder.type"]),
        (["data.train=[{src: a, tgt: b}, {tsv: c}]"], ["data.train"]),
        (["data.train.0.src=x", "data.valid.tgt=y"], ["data.train.0.src", "data.valid.tgt"]),
        (["data.test={tsv: x}"], ["data.test"]),
        (["training.optimizer=adamw"], ["training.optimizer", "training.weight_decay"]),
        (["training.max_updates=20000"], []),
    ],
)
def test_changed_keys_are_those_whose_effect_differs(settings: list[str], expected: list[str]):
    assert loading.changed_keys(parse(), parse(MINIMAL, *settings)) == expected


@pytest.mark.parametrize(
    "setting",
    [
        "run_dir=elsewhere",
        "device=cpu",
        "threads=2",
        "training.max_updates=7",
        "training.max_epochs=7",
        "training.max_minutes=7",
        "training.patience=7",
        "training.logging_interval=7",
        "training.checkpoint_interval=7",
        "training.keep_checkpoints=7",
        "decoding.beam_size=7",
        "data.test={tsv: x}",
        "data.train.0.src=moved",
        "data.valid={tsv: moved}",
    ],
)
def test_what_only_bounds_or_logs_a_run_may_change(setting: str):
    assert loading.frozen_keys(parse(), parse(MINIMAL, setting)) == []


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("seed=2", "seed"),
        ("model.encoder.type=rnn", "model.encoder.type"),
        ("training.batch_tokens=7", "training.batch_tokens"),
        ("training.precision=fp64", "training.precision"),
        ("training.validation_interval=7", "training.validation_interval"),
        ("tokenizer.vocab_size=70", "tokenizer.vocab_size"),
        ("data.max_length=7", "data.max_length"),
        ("data.train=[{tsv: a}, {tsv: b}]", "data.train"),
        ("data.train.0.weight=2", "data.train.0.weight"),
    ],
)
def test_what_shapes_a_run_is_frozen(setting: str, key: str):
    assert loading.frozen_keys(parse(), parse(MINIMAL, setting)) == [key]


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_schedule_with_an_end_freezes_max_updates(schedule: str):
    old = parse(MINIMAL, f"training.schedule={schedule}")
    new = parse(MINIMAL, f"training.schedule={schedule}", "training.max_updates=7")
    assert loading.frozen_keys(old, new) == ["training.max_updates"]


def test_decoding_flags_go_over_the_configuration():
    decoding = schema.DecodingConfig(beam_size=7)
    flags = {"beam_size": None, "length_penalty": 0, "exact_stop": True}
    result = loading.apply_decoding_flags(decoding, flags)
    assert (result.beam_size, result.length_penalty, result.exact_stop) == (7, 0.0, True)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"beam_size": 0}, "--beam-size: wants at least 1 (given: 0)."),
        ({"length_penalty": -1.0}, "--length-penalty: wants at least 0 (given: -1.0)."),
        (
            {"length_penalty": float("nan")},
            "--length-penalty: wants a finite number (given: .nan).",
        ),
        ({"min_length": 512}, "--min-length: has to be below max_length (given: 512 and 512)."),
        (
            {"exact_stop": True, "patience": 2.0},
            "--patience: would be ignored, since exact_stop has a rule of its own. Remove it.",
        ),
    ],
)
def test_wrong_decoding_flags_are_usage_errors(flags: dict[str, object], expected: str):
    with pytest.raises(errors.UsageError) as caught:
        loading.apply_decoding_flags(schema.DecodingConfig(), flags)
    assert str(caught.value) == expected
    assert not isinstance(caught.value, errors.ConfigError)


def test_unknown_decoding_flag_gives_the_nearest():
    with pytest.raises(errors.UsageError, match=r"--beam-sise: .* Did you mean '--beam-size'\?"):
        loading.apply_decoding_flags(schema.DecodingConfig(), {"beam_sise": 1})


def test_flag_that_clashes_with_the_configuration_is_named():
    with pytest.raises(errors.UsageError, match=r"^--max-length: does not fit. min_length: has to"):
        loading.apply_decoding_flags(schema.DecodingConfig(min_length=9), {"max_length": 9})


def test_patterns_are_frozen_in_their_order():
    first, second = (
        parse(MINIMAL, f"training.rate_factors={{{rates}}}")
        for rates in ('"encoder.*": 0.1, "*": 1.0', '"*": 1.0, "encoder.*": 0.1')
    )
    assert loading.frozen_keys(first, first) == []
    assert loading.frozen_keys(first, second) == ["training.rate_factors"]
