"""What the documentation shows is run as it stands there."""

import gzip
import re
import shlex
from pathlib import Path

import pytest

from nmt.cli import parser
from nmt.config import families, loading
from nmt.models import registry

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONFIG = """
run_dir: runs/demo
data:
  src_lang: en
  tgt_lang: de
  train: [{src: corpus.en, tgt: corpus.de}]
  valid: {src: corpus.en, tgt: corpus.de}
tokenizer: {type: word, vocab_size: 400, byte_fallback: false}
model:
  encoder: {type: rnn, embedding_size: 8, hidden_size: 8}
  decoder: {type: rnn, embedding_size: 8, hidden_size: 8}
training: {max_updates: 2, warmup_updates: 1, batch_tokens: 400}
decoding: {max_length: 10}
"""


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """Returns the `nmt` command lines of a text's shell blocks and inline code."""
    lines = [line for block in blocks(text, "sh") for line in block.splitlines()]
    lines += re.findall(r"`(nmt [a-z][^`]*)`", text)
    found = [shlex.split(line, comments=True) for line in lines if line.startswith("nmt ")]
    return [words[1 : words.index("<") if "<" in words else None] for words in found]


@pytest.fixture(autouse=True)
def _corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NMT_MODEL", raising=False)
    Path("corpus.en").write_text("The train leaves at half past seven .\nShe sold tickets .\n" * 20)
    Path("corpus.de").write_text("Der Zug fährt um halb acht .\nSie verkaufte Karten .\n" * 20)
    Path("config.yaml").write_text(CONFIG)


@pytest.fixture
def demo(run_main) -> None:
    assert run_main("train", "config.yaml", "--quiet") == 0


def pages_with_commands() -> list[str]:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    found = [page for page in pages if commands(page.read_text(encoding="utf-8"))]
    assert len(found) >= 12
    return [str(page.relative_to(ROOT)) for page in found]


@pytest.mark.parametrize("name", pages_with_commands())
def test_every_command_is_one_that_exists(name: str):
    for words in commands((ROOT / name).read_text(encoding="utf-8")):
        if words[0] == "VERB" or len(words) == 1:
            # Only a verb is meant, not a whole command line.
            assert words[0] in {"VERB", *parser.build()[1]}
        else:
            parser.parse(words)


def test_every_file_that_the_documentation_names_is_there():
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        text = document.read_text(encoding="utf-8")
        named = re.findall(r"\b((?:scripts|configs|tests|nmt|docs)/[\w./-]*\w)", text)
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (document.parent / link).exists(), f"{document.name} links to {link}"
        for path in named:
            assert (ROOT / path).exists(), f"{document.name} names {path}"


def test_the_configuration_of_the_readme_is_valid():
    (text,) = blocks(README, "yaml")
    assert loading.parse(text, "README.md").model.decoder.type == "rnn"


def test_the_quickstart_does_what_it_says(run_main, capsysbinary):
    Path("config.yaml").unlink()
    quickstart = next(block for block in blocks(README, "sh") if "nmt init" in block)
    init, train, translate, evaluate = (
        shlex.split(line, comments=True) for line in quickstart.splitlines()
    )
    assert run_main(*init[1:]) == 0
    assert train == ["nmt", "train", "config.yaml"]
    # As it stands it would train for long.
    tiny = ["tokenizer.vocab_size=290", "training.max_updates=1", "model.encoder.hidden_size=8"]
    tiny += ["model.decoder.hidden_size=8"]
    assert run_main(*train[1:], "--quiet", *(f"--set={setting}" for setting in tiny)) == 0
    assert translate == ["nmt", "translate", "<", "input.txt"]
    Path("input.txt").write_text("She sold tickets .\n")
    assert run_main("translate", "--input", "input.txt") == 0
    assert capsysbinary.readouterr().out.count(b"\n") == 1
    assert run_main(*evaluate[1:]) == 0
    assert capsysbinary.readouterr().out.startswith(b"BLEU|nrefs:1|")


@pytest.mark.usefixtures("demo")
@pytest.mark.parametrize("name", ["README.md", "docs/api.md"])
def test_the_python_of_the_documentation_runs(name: str):
    namespace: dict[str, object] = {}
    for block in blocks((ROOT / name).read_text(encoding="utf-8"), "python"):
        exec(block, namespace)
    assert namespace["model"].translate([""]) == [""]


def test_the_family_of_the_documentation_trains_and_translates(run_main, monkeypatch):
    # What is registered here is not there for other tests.
    monkeypatch.setattr(families, "_registered", {})
    monkeypatch.setattr(registry, "_builders", {})
    text = (ROOT / "docs/families.md").read_text(encoding="utf-8")
    (module,) = blocks(text, "python")
    Path("my_family.py").write_text(module)
    (plugin,) = blocks(text, "yaml")
    start = CONFIG.index("model:")
    end = CONFIG.index("training:")
    Path("config.yaml").write_text(CONFIG[:start] + plugin + CONFIG[end:])
    assert run_main("train", "config.yaml", "--quiet") == 0
    assert run_main("inspect", "runs/demo") == 0


FAST = (ROOT / "docs/fast-decoders.md").read_text(encoding="utf-8")
RECIPE = next(block for block in blocks(FAST, "sh") if "nmt translate" in block).splitlines()


@pytest.mark.parametrize("text", blocks(FAST, "yaml"))
def test_the_models_for_fast_decoding_are_valid(text: str):
    start, end = CONFIG.index("model:"), CONFIG.index("training:")
    decoder = loading.parse(CONFIG[:start] + text + CONFIG[end:], "fast-decoders.md").model.decoder
    assert decoder.autoregressive_layer == "ssru"


MULTILINGUAL = (ROOT / "docs/multilingual.md").read_text(encoding="utf-8")
DATA, *BACK = next(block for block in blocks(MULTILINGUAL, "sh") if "back.en" in block).splitlines()


def test_the_data_section_of_several_directions_is_valid():
    (text,) = blocks(MULTILINGUAL, "yaml")
    data = loading.parse(f"run_dir: r\n{text}", "multilingual.md").data
    assert data.languages == ("de", "en")
    assert data.pair_of(data.train[2]) == ("fr", "en")


def test_back_translation_takes_three_commands(run_main):
    """As they stand there, with models that are trained for two updates."""
    Path("configs").symlink_to(ROOT / "configs")
    for folder in ("multi30k", "multi30k-2000"):
        Path("data", folder).mkdir(parents=True)
    for language in ("en", "de"):
        text = Path(f"corpus.{language}").read_text(encoding="utf-8")
        for name in ("train", "val", "test_2016_flickr"):
            path = f"data/multi30k/{name}.{language}.gz"
            with gzip.open(path, "wt", encoding="utf-8") as file:
                file.write(text)
        Path(f"data/multi30k-2000/train.{language}").write_text(text, encoding="utf-8")
    tiny = ["tokenizer.vocab_size=330", "training.max_updates=2", "training.warmup_updates=1"]
    tiny += ["training.batch_tokens=400", "decoding.max_length=10"]
    tiny += [f"model.{side}.hidden_size=8" for side in ("encoder", "decoder")]
    overrides = ["--quiet", *(f"--set={setting}" for setting in tiny)]
    assert DATA == "python scripts/get_multi30k.py --small 2000"
    back, translate, forth = (shlex.split(line)[1:] for line in BACK)
    assert run_main(*back, *overrides) == 0
    assert run_main(*translate) == 0
    assert len(Path("data/multi30k-2000/back.en").read_text().splitlines()) == 40
    assert run_main(*forth, *overrides) == 0
    pieces = Path("runs/multi30k-2000-bt/tokenizer/spm.vocab").read_text(encoding="utf-8")
    assert "<BT>" in pieces.split("\n")


def test_a_student_learns_what_its_teacher_made_of_the_training_set(run_main):
    """The three commands, with models that are trained for two updates."""
    Path("configs").symlink_to(ROOT / "configs")
    Path("data/multi30k").mkdir(parents=True)
    src = "The train leaves at half past seven .\n\nShe sold tickets .\n" * 20
    tgt = "Der Zug fährt um halb acht .\n\nSie verkaufte Karten .\n" * 20
    for name in ("train", "val", "test_2016_flickr"):
        for language, text in (("en", src), ("de", tgt)):
            with gzip.open(f"data/multi30k/{name}.{language}.gz", "wt", encoding="utf-8") as file:
                file.write(text)
    tiny = ["tokenizer.vocab_size=290", "training.max_updates=2", "training.warmup_updates=1"]
    tiny += ["training.batch_tokens=400", "decoding.max_length=10"]
    tiny += [f"model.{side}.hidden_size=8" for side in ("encoder", "decoder")]
    overrides = ["--quiet", *(f"--set={setting}" for setting in tiny)]
    teacher, translate, student = (shlex.split(line)[1:] for line in RECIPE)
    assert run_main(*teacher, *overrides) == 0
    assert run_main(*translate) == 0
    lines = src.split("\n")
    made = Path("data/multi30k/train.distilled.de").read_text(encoding="utf-8").split("\n")
    assert [line == "" for line in made] == [line == "" for line in lines]
    assert run_main(*student, *overrides) == 0
    trained = loading.load("runs/multi30k-student/config.yaml")
    assert trained.model.decoder.autoregressive_layer == "ssru"
    assert trained.data.train[0].tgt == "data/multi30k/train.distilled.de"
