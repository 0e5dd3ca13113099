import pathlib
import sys
from collections.abc import Iterator

import pytest

from nmt import errors
from nmt.config import families, loading, sections

MINIMAL = """\
run_dir: runs/toy
data:
  src_lang: en
  tgt_lang: de
  train: [{src: a, tgt: b}]
  valid: {src: c, tgt: d}
plugins: [%s]
model: {encoder: {type: mine, size: %s}}
"""
PLUGIN = """\
from typing import Literal
from nmt.config import families, knobs

class Options(families.FamilyOptions):
    type: Literal["mine"]
    size: int = knobs.knob(3, "width", ge=1)

families.register_options("mine", families.FamilySchemas(encoder=Options))
"""


@pytest.fixture(autouse=True)
def _forget_plugins() -> Iterator[None]:
    known, modules = dict(families._registered), set(sys.modules)
    yield
    families._registered.clear()
    families._registered.update(known)
    for name in set(sys.modules) - modules:
        if name.startswith("nmt_plugin_"):
            del sys.modules[name]


@pytest.fixture
def plugin(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    return path


def test_options_of_a_plugin_are_checked_like_ours(plugin: pathlib.Path):
    config = loading.parse(MINIMAL % (plugin, 5), "toy.yaml")
    assert config.model.encoder.model_dump() == {"type": "mine", "size": 5}
    assert loading.parse(loading.dump(config), "dumped") == config
    with pytest.raises(
        errors.ConfigError, match=r"toy.yaml:8 model.encoder.size: wants at least 1"
    ):
        loading.parse(MINIMAL % (plugin, 0), "toy.yaml")
    with pytest.raises(errors.ConfigError, match=r"siz: unknown key.*Did you mean 'size'\?"):
        loading.parse((MINIMAL % (plugin, 0)).replace("size", "siz"), "toy.yaml")


def test_side_that_a_plugin_does_not_offer_is_refused(plugin: pathlib.Path):
    text = (MINIMAL % (plugin, 5)).replace("{encoder: {type: mine, size: 5}}", "")
    with pytest.raises(errors.ConfigError, match="no decoder of this type"):
        loading.parse(text, "toy.yaml", ["model.decoder.type=mine"])


def test_plugins_may_be_named_by_an_override(plugin: pathlib.Path):
    text = MINIMAL.replace("plugins: [%s]\n", "") % 5
    assert loading.parse(text, "toy.yaml", [f"plugins=[{plugin}]"]).model.encoder.type == "mine"


@pytest.mark.parametrize("name", ["no_such_module_of_ours", "missing.py", "''"])
def test_missing_plugin_is_named_with_its_place(name: str):
    with pytest.raises(errors.ConfigError, match=r"^toy.yaml:7 plugins.0: plugin '.*cannot be"):
        loading.parse(MINIMAL % (name, 5), "toy.yaml")


def test_plugin_that_failed_is_tried_again(plugin: pathlib.Path):
    plugin.write_text("import no_such_module_of_ours\n")
    for _ in range(2):
        with pytest.raises(errors.ConfigError, match="no_such_module_of_ours"):
            families.load_plugin(str(plugin))
    # Another length, so that no cached bytecode passes for it.
    plugin.write_text(PLUGIN)
    families.load_plugin(str(plugin))
    assert "mine" in families.family_names("encoder")
    assert "mine" not in families.family_names("decoder")


def test_name_of_another_family_cannot_be_taken():
    with pytest.raises(errors.ConfigError, match="the name is taken"):
        families.register_options("rnn", families.FamilySchemas())


@pytest.mark.parametrize("side", sections.SIDES)
@pytest.mark.parametrize("family", families.BUILT_IN)
def test_every_family_offers_both_sides_with_defaults(family: str, side: families.Side):
    options = families.options_schema(family, side)()
    assert options.type == family
    assert set(options.inapplicable()) < set(type(options).model_fields)
