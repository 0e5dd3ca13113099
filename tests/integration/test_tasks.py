"""Each task config trains end to end with tiny sizes, on data from the script that makes it."""

import gzip
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
TINY = {
    "transformer": {"num_layers": 1, "hidden_size": 8, "num_heads": 2, "feedforward_size": 16},
    "rnn": {"num_layers": 1, "embedding_size": 8, "hidden_size": 8},
    "cnn": {"num_layers": 1, "embedding_size": 8, "hidden_size": 8},
}
QUICK = {"max_updates": 3, "batch_tokens": 400, "validation_interval": 2, "warmup_updates": 1}


def tiny_config(name: str, **changes) -> None:
    """Writes `c.yaml`: a config of the toolkit whose model and limits are tiny."""
    values = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())
    for side in ("encoder", "decoder"):
        values["model"][side] = {"type": values["model"][side]["type"]}
        values["model"][side] |= TINY[values["model"][side]["type"]]
    training = {
        key: values["training"][key]
        for key in ("init_from", "best_metric")
        if key in values["training"]
    }
    values |= {"run_dir": "run", "threads": 1, "training": training | QUICK | {"precision": "fp32"}}
    values["decoding"]["max_length"] = 12
    for key, change in changes.items():
        values[key] = values.get(key, {}) | change
    Path("c.yaml").write_text(yaml.safe_dump(values))


def make(script: str, *argv: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, SCRIPTS / script, *argv], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def numbers(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("numbers")
    make("make_number_corpus.py", "--output", folder)
    return folder


@pytest.fixture
def use(numbers):
    """A function that lays the corpus of numbers into the working directory, shortened."""

    def lay() -> None:
        Path("data/numbers").mkdir(parents=True)
        for path in numbers.iterdir():
            lines = path.read_text().splitlines(keepends=True)
            Path("data/numbers", path.name).write_text("".join(lines[:300]))

    return lay


def words_and_phones() -> None:
    folder = Path("data/cmudict")
    folder.mkdir(parents=True)
    words = [f"{a}{b}{c}" for a in "bdkm" for b in "aeio" for c in "ptns"]
    phones = [" ".join(letter.upper() for letter in word) for word in words]
    for name, part in (("train", slice(0, 50)), ("valid", slice(50, 57)), ("test", slice(57, 64))):
        kinds = {"words": words[part], ("1.phones" if name == "test" else "phones"): phones[part]}
        for kind, lines in kinds.items():
            (folder / f"{name}.{kind}").write_text("".join(f"{line}\n" for line in lines))
    (folder / "test.2.phones").write_text((folder / "test.1.phones").read_text())


def test_letters_become_phonemes(nmt, open_run):
    words_and_phones()
    tiny_config("cmudict", training={"max_updates": 60, "learning_rate": 0.02})
    assert nmt("train", "c.yaml").code == 0
    pieces = {side: Path(f"run/tokenizer/{side}.vocab").read_text() for side in ("src", "tgt")}
    assert "\nb\n" in pieces["src"], "letters"
    assert "\n\u2581B\n" in pieces["tgt"], "phonemes are whole"
    losses = [line["loss"] for line in open_run().metrics if line["event"] == "validation"]
    assert losses[-1] < losses[0] - 0.5
    done = nmt(
        "translate", "--model", "run", "--input", "data/cmudict/test.words", "--output", "hyp"
    )
    assert done.code == 0
    assert set(Path("hyp").read_text().split()) <= set("BDKMAEIOPTNS")
    refs = [f"data/cmudict/test.{number}.phones" for number in (1, 2)]
    shown = make("score_g2p.py", "hyp", *refs)
    flags = [flag for ref in refs for flag in ("--ref", ref)]
    scores = json.loads(nmt("evaluate", "--hyp", "hyp", *flags, "--exact-match", "--json").text)
    wrong = 100 - scores[0]["score"]
    assert shown.startswith(f"WER {wrong:.2f} % of 7 words")


def test_numbers_become_words(use, nmt):
    use()
    tiny_config("normalisation")
    assert nmt("train", "c.yaml").code == 0
    assert nmt("evaluate", "--model", "run", "--exact-match").code == 0


def test_words_become_tags(use, nmt, open_run):
    use()
    tiny_config("tagging")
    assert nmt("train", "c.yaml").code == 0
    vocabulary = set(Path("run/tokenizer/tgt.vocab").read_text().split("\n"))
    assert {"\u2581O", "\u2581B-DATE", "\u2581I-DATE"} <= vocabulary
    shown = json.loads(nmt("evaluate", "--model", "run", "--metric", "span_f1", "--json").text)
    assert shown[0]["name"] == "span F1"


def test_long_texts_become_summaries(nmt):
    root = Path("packages")
    root.mkdir()
    for number in range(60):
        body = " ".join(f"word{number + place}" for place in range(130))
        code = f'def f():\n    """Returns the {number}th thing of all.\n\n    {body}\n    """\n'
        (root / f"module{number}.py").write_text(code)
    (root / "broken.py").write_text("def (")
    make("make_docstring_corpus.py", "--root", root)
    text, summary = (Path(f"data/docstrings/train.{k}").read_text() for k in ("text", "summary"))
    assert "broken" not in text
    assert {len(line.split()) for line in text.splitlines()} == {80}
    assert summary.splitlines()[0].endswith("thing of all.")
    tiny_config("summarising", tokenizer={"vocab_size": 320}, data={"max_length": 2000})
    assert nmt("train", "c.yaml").code == 0
    done = nmt("evaluate", "--model", "run", "--metric", "rouge1,rouge2,rougel")
    assert done.code == (0 if importlib.util.find_spec("rouge_score") else 2)


def test_captions_are_restored_then_translated(nmt):
    for folder in ("multi30k", "multi30k-2000"):
        Path("data", folder).mkdir(parents=True)
    captions = {
        "en": [f"A dog number {number} runs on the green grass." for number in range(50)],
        "de": [f"Ein Hund Nummer {number} läuft auf dem grünen Gras." for number in range(50)],
    }
    for language, lines in captions.items():
        text = "".join(f"{line}\n" for line in lines)
        for name in ("train", "val", "test_2016_flickr"):
            path = Path(f"data/multi30k/{name}.{language}.gz")
            path.write_bytes(gzip.compress(text.encode()))
        Path(f"data/multi30k-2000/train.{language}").write_text(text)
    tokenizer = {"vocab_size": 350}
    tiny_config("multi30k-denoise", tokenizer=tokenizer)
    assert nmt("train", "c.yaml", "--set", "run_dir=runs/multi30k-denoise").code == 0
    for name in ("multi30k-2000", "multi30k-2000-finetune"):
        tiny_config(name)
        assert nmt("train", "c.yaml", "--set", f"run_dir={name}").code == 0
        assert nmt("evaluate", "--model", name).code == 0
    tiny_config("multi30k-multilingual", tokenizer=tokenizer)
    assert nmt("train", "c.yaml").code == 0
    shown = nmt("evaluate", "--model", "run").lines
    headings = [line for line in shown if line.endswith(":")]
    assert headings == ["en-de:", "de-en:", "mean over pairs:"]
