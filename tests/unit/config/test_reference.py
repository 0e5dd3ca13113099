import pathlib

from nmt.config import families, reference, schema, sections

DOCUMENT = pathlib.Path(__file__).parents[3] / "docs" / "config.md"


def test_document_is_current():
    assert DOCUMENT.read_text(encoding="utf-8") == reference.render()


def test_every_key_is_in_the_reference():
    text = reference.render()
    for name, field in schema.Config.model_fields.items():
        section = sections.section_of(field)
        if section is None:
            assert f"| `{name}` |" in text
        else:
            for knob in sections.knobs_of(section):
                assert f"| `{name}.{knob.key}` |" in text
    for family in families.BUILT_IN:
        for side in sections.SIDES:
            assert f"## model.{side} of type {family}\n" in text


def test_every_knob_says_what_it_does():
    for section in (schema.DataConfig, schema.TokenizerConfig, schema.TrainingConfig):
        assert all(knob.text for knob in sections.knobs_of(section))


def test_types_and_bounds_are_in_words():
    kinds = {knob.key: knob.kind for knob in sections.knobs_of(schema.TrainingConfig)}
    assert kinds["max_updates"] == "int or null, at least 1"
    assert kinds["label_smoothing"] == "float, at least 0, less than 1"
    assert kinds["optimizer"] == "adam, adamw, muon"
    assert kinds["max_device_tokens"] == "int or auto or null"
    assert kinds["rate_factors"] == "text to float"
    assert kinds["betas"] == "[float, float]"
