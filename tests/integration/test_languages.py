"""One model of several directions: tags, shares, scores for each pair, and the flag that chooses."""

import json
import math
import shutil
from pathlib import Path

import pytest
import yaml

from nmt import api
from nmt.search import settings as search_settings

FORTH = {"src": "train.src", "tgt": "train.tgt", "tgt_lang": "bb"}
BACK = {"src": "train.tgt", "tgt": "train.src", "src_lang": "bb", "tgt_lang": "aa"}
BY_UPDATE = {"logging_interval": 1, "validation_interval": 1, "checkpoint_interval": 1}


def held_out(name: str) -> list[dict[str, str]]:
    return [
        {"src": f"{name}.src", "tgt": f"{name}.tgt"},
        {"src": f"{name}.tgt", "tgt": f"{name}.src", "src_lang": "bb", "tgt_lang": "aa"},
    ]


@pytest.fixture
def both(configure):
    """A function that configures a model of both directions."""

    def write(family: str = "rnn", train=(FORTH, BACK), data=None, **changes):
        values = {"train": list(train), "valid": held_out("valid"), "test": held_out("test")}
        training = changes.pop("training", {})
        configure(family, data=values | (data or {}), training=BY_UPDATE | training, **changes)

    return write


@pytest.mark.parametrize(
    ("family", "tokenizer"),
    [
        ("rnn", {"type": "word", "vocab_size": 300}),
        ("cnn", {"type": "char", "vocab_size": 300, "shared": False}),
        ("transformer", {"type": "bpe", "vocab_size": 300, "sampling": "both"}),
    ],
)
def test_a_folder_alone_translates_in_each_direction(family, tokenizer, both, nmt, open_run):
    both(family, tokenizer=tokenizer, training={"max_updates": 3})
    assert nmt("train", "c.yaml").code == 0
    for line in [line for line in open_run().metrics if line["event"] == "validation"]:
        pairs = [line[f"bleu:{pair}"] for pair in ("aa-bb", "bb-aa")]
        assert line["bleu"] == pytest.approx(sum(pairs) / 2)
        losses = [line[f"loss:{pair}"] for pair in ("aa-bb", "bb-aa")]
        assert losses[0] != losses[1]
        assert line["perplexity"] == pytest.approx(math.exp(sum(losses) / 2))
    assert "mean of 2 corpora" in open_run().log
    shutil.move("run", "moved")
    for path in [*Path().glob("*.src"), *Path().glob("*.tgt"), Path("c.yaml")]:
        path.unlink()
    lines = b"ba de\n\nki\n"
    forth, back = (
        nmt("translate", "--model", "moved", "--tgt-lang", lang, "--return-scores", stdin=lines)
        for lang in ("bb", "aa")
    )
    assert len(forth.lines) == len(back.lines) == 3
    assert forth.lines[0] != back.lines[0]
    assert forth.lines[1] == back.lines[1]


def test_lines_flags_and_the_api_say_the_language(both, nmt):
    both()
    assert nmt("train", "c.yaml").code == 0
    nmt("translate", "--model", "run", stdin=b"ba\n").assert_refused(
        2, "tgt_lang: missing; this model translates into bb, aa."
    )
    nmt("translate", "--model", "run", "--tgt-lang", "ab", stdin=b"ba\n").assert_refused(
        2, "tgt_lang: unknown to this model (given: ab). Known: bb, aa."
    )
    objects = [
        {"text": "ba", "tgt_lang": "aa", "id": 1},
        {"text": "ba", "tgt_lang": "bb"},
        {"text": "ba"},
        {"text": "ba", "tgt_lang": "bbb"},
        {"text": "ba", "tgt_lang": 3},
        {"text": " ", "id": 2},
    ]
    stdin = "".join(f"{json.dumps(one)}\n" for one in objects).encode()
    done = nmt("translate", "--model", "run", "--format", "jsonl", stdin=stdin)
    answers = [json.loads(line) for line in done.lines]
    assert answers[0]["id"] == 1 and "tgt_lang" not in answers[0]
    assert answers[0]["score"] != answers[1]["score"]
    assert answers[2]["error"].startswith("tgt_lang: missing")
    assert "Did you mean 'bb'?" in answers[3]["error"]
    assert answers[4]["error"].startswith("tgt_lang: wants text")
    assert answers[5] == {"translation": "", "score": 0.0, "id": 2}, "blank in any language"
    default = nmt(
        "translate", "--model", "run", "--format", "jsonl", "--tgt-lang", "bb", stdin=stdin
    )
    assert json.loads(default.lines[2])["score"] == answers[1]["score"]
    assert json.loads(default.lines[0])["score"] == answers[0]["score"]
    model = api.load("run")
    ((best,),) = model.translate_nbest(["ba"], 1, tgt_lang="aa")
    assert best.score == pytest.approx(answers[0]["score"])
    assert model.translate_requests(objects[:1])[0]["score"] == pytest.approx(best.score)
    Path("pair.src").write_text("ba\n")
    Path("pair.tgt").write_text(f"{best.text}\n")
    flags = ["score", "--model", "run", "--src", "pair.src", "--tgt", "pair.tgt"]
    nmt(*flags).assert_refused(2, "tgt_lang: missing")
    found = nmt(*flags, "--tgt-lang", "aa").lines[0].split("\t")
    assert float(found[0]) == pytest.approx(
        model.score(["ba"], [best.text], tgt_lang="aa")[0], abs=1e-4
    )


def test_the_search_is_told_what_of_a_source_is_no_text(both, nmt, monkeypatch):
    both()
    assert nmt("train", "c.yaml").code == 0
    told, limits = [], search_settings.limits

    def spied(requests, *args):
        told.extend(request.num_tags for request in requests)
        return limits(requests, *args)

    monkeypatch.setattr(search_settings, "limits", spied)
    assert nmt("translate", "--model", "run", "--tgt-lang", "bb", stdin=b"ba\nde\n").code == 0
    assert told == [1, 1]


def test_a_test_set_is_scored_pair_by_pair(both, nmt):
    learner = {"max_updates": 100, "learning_rate": 0.01, "warmup_updates": 5, "batch_tokens": 256}
    never = {"validation_interval": 100, "checkpoint_interval": 100}
    side = {"type": "rnn", "embedding_size": 32, "hidden_size": 32, "dropout": 0.0}
    both(training=learner | never, model={"encoder": side, "decoder": side})
    # One language in capitals: which is asked for can be seen soon.
    for path in Path().glob("*.tgt"):
        path.write_text(path.read_text().upper())
    assert nmt("train", "c.yaml").code == 0
    shown = nmt("evaluate", "--model", "run", "--chrf", "--output", "all.txt").lines
    assert [shown[place] for place in (0, 2, 3, 5, 6)] == [
        "aa-bb:",
        "",
        "bb-aa:",
        "",
        "mean over pairs:",
    ]
    assert all(shown[place].startswith("chrF2|nrefs:1") for place in (1, 4))
    objects = json.loads(nmt("evaluate", "--model", "run", "--chrf", "--json").text)
    values = {one["pair"]: one["score"] for one in objects}
    assert f"{values['mean']:.2f}" == shown[-1].split()[-1]
    assert values["mean"] == pytest.approx((values["aa-bb"] + values["bb-aa"]) / 2, abs=0.01)
    for language, src, tgt, pair in (("bb", "src", "tgt", "aa-bb"), ("aa", "tgt", "src", "bb-aa")):
        flags = ["--src", f"test.{src}", "--ref", f"test.{tgt}", "--tgt-lang", language]
        alone = nmt("evaluate", "--model", "run", "--chrf", "--json", *flags)
        assert json.loads(alone.text)[0]["score"] == values[pair]
    made = [
        nmt("translate", "--model", "run", "--tgt-lang", language, "--input", f"test.{side}").lines
        for language, side in (("bb", "src"), ("aa", "tgt"), ("aa", "src"))
    ]
    assert Path("all.txt").read_text().splitlines() == made[0] + made[1]
    assert made[0] != made[2], "the language makes a difference"
    nmt("evaluate", "--model", "run", "--tgt-lang", "aa").assert_refused(2, "--tgt-lang")
    nmt("evaluate", "--hyp", "all.txt", "--ref", "all.txt", "--tgt-lang", "aa").assert_refused(
        2, "--tgt-lang: would be ignored"
    )


def test_systems_are_compared_pair_by_pair_and_one_without_tags_is_told_nothing(
    both, nmt, configure
):
    both(data={"test": held_out("test")})
    assert nmt("train", "c.yaml").code == 0
    configure("rnn", run_dir="plain", data={"src_lang": "aa", "tgt_lang": "bb"})
    assert nmt("train", "c.yaml").code == 0
    flags = ["--chrf", "--resamples", "20", "--trials", "20"]
    pair = ["evaluate", "--model", "run", "--model", "plain", *flags]
    found = json.loads(nmt(*pair, "--json").text)
    assert [(one["pair"], one["system"]) for one in found] == [
        (pair, system) for pair in ("aa-bb", "bb-aa", "mean") for system in ("run", "plain")
    ]
    assert all("p_bootstrap" in one for one in (found[1], found[3]))
    shown = nmt(*pair).lines
    assert shown[-4:-2] == ["mean over pairs:", f"{'':7}{'chrF2'}"]
    assert [line.split()[0] for line in shown[-2:]] == ["run", "plain"]
    header, *rows = nmt(*pair, "--tsv", "--segments", "seg.tsv").lines
    assert header.split("\t")[:2] == ["pair", "system"]
    assert [row.split("\t")[0] for row in rows] == ["aa-bb"] * 2 + ["bb-aa"] * 2 + ["mean"] * 2
    assert {row.count("\t") for row in rows} == {header.count("\t")}
    place = header.split("\t").index("score")
    assert [float(row.split("\t")[place]) for row in rows] == [one["score"] for one in found]
    segments = Path("seg.tsv").read_text().splitlines()
    assert segments[0] == "pair\tline\tsystem\tchrF2"
    assert segments[1].startswith("aa-bb\t1\trun\t") and segments[-1].startswith("bb-aa\t")
    # The test set of the model without tags: the language of that one is asked of the other.
    turned = ["evaluate", "--model", "plain", "--model", "run", "--json", *flags]
    own = json.loads(nmt(*turned).text)
    assert [one["score"] for one in own] == [found[1]["score"], found[0]["score"]]
    files = ["--src", "test.src", "--ref", "test.tgt"]
    nmt(*turned, *files).assert_refused(2, "tgt_lang: missing")
    assert json.loads(nmt(*turned, *files, "--tgt-lang", "bb").text) == own
    nmt("evaluate", "--model", "plain", *files, "--tgt-lang", "bb").assert_refused(
        2, "tgt_lang: this model has one direction"
    )


def test_one_tagged_direction_needs_no_flag_and_none_takes_no_flag(both, nmt, configure):
    one = {"valid": held_out("valid")[0], "test": held_out("test")[0]}
    both(train=[FORTH], data=one)
    assert nmt("train", "c.yaml").code == 0
    plain = nmt("translate", "--model", "run", stdin=b"ba\n")
    assert (
        plain.lines == nmt("translate", "--model", "run", "--tgt-lang", "bb", stdin=b"ba\n").lines
    )
    assert nmt("evaluate", "--model", "run").code == 0
    configure("rnn", run_dir="untagged")
    assert nmt("train", "c.yaml").code == 0
    nmt("translate", "--model", "untagged", "--tgt-lang", "bb", stdin=b"ba\n").assert_refused(
        2, "tgt_lang: this model has one direction, without tags (given: bb)"
    )
    nmt("translate", "--model", "run", "--model", "untagged", stdin=b"").assert_refused(
        2, "--model"
    )


def test_temperature_decides_the_shares_and_resumes_bit_for_bit(both, nmt, open_run):
    few = Path("few.tsv")
    both(
        train=[FORTH, {"tsv": str(few), "src_lang": "bb", "tgt_lang": "aa"}],
        data={"sampling_temperature": 3.0},
        training={"max_updates": 8},
    )
    few.write_text("ba\tde\nki\tlo\nmu\tna\n")
    assert nmt("train", "c.yaml", "--set", "run_dir=whole").code == 0
    assert nmt("train", "c.yaml", "--set", "training.max_updates=3").code == 0
    assert nmt("train", "c.yaml").code == 0
    assert open_run().sha256 == open_run("whole").sha256
    # The temperature decides, and without one every pair comes once.
    flags = ["--set", "run_dir=cold", "--set", "data.sampling_temperature=1.0"]
    assert nmt("train", "c.yaml", *flags).code == 0
    assert open_run("cold").sha256 != open_run("whole").sha256
    both(
        train=[FORTH, {"tsv": str(few), "src_lang": "bb", "tgt_lang": "aa"}],
        training={"max_updates": 8},
    )
    assert nmt("train", "c.yaml", "--set", "run_dir=all").code == 0
    assert open_run("all").sha256 != open_run("whole").sha256


def test_a_model_to_start_from_has_to_know_the_tags(both, nmt, configure):
    both(run_dir="base")
    assert nmt("train", "c.yaml").code == 0
    both(train=[FORTH], data={"valid": held_out("valid")[0], "test": held_out("test")[0]})
    values = yaml.safe_load(Path("c.yaml").read_text())
    del values["tokenizer"]
    values["training"]["init_from"] = "base"
    Path("c.yaml").write_text(yaml.safe_dump(values))
    assert nmt("train", "c.yaml").code == 0
    assert nmt("translate", "--model", "run", stdin=b"ba\n").code == 0, "one language is left"
    both_models = nmt(
        "translate", "--model", "run", "--model", "base", "--tgt-lang", "bb", stdin=b""
    )
    both_models.assert_refused(2, "--model base: translates into other languages than run")
    refused = nmt("train", "c.yaml", "-q", "--fresh", "--set", "data.train.0.tag=BT")
    refused.assert_refused(2, "the vocabulary lacks pieces", "(given: <BT>)")


def test_inspect_names_every_direction_and_kind_of_pieces(both, nmt):
    both("cnn", tokenizer={"type": "char", "tgt_type": "word", "shared": False})
    assert nmt("train", "c.yaml").code == 0
    shown = json.loads(nmt("inspect", "run", "--json").text)
    assert shown["languages"] == "aa -> bb, bb -> aa; tags for bb, aa"
    assert shown["tokenizer"] == "char (source), word (target)"


def test_check_knows_tags_and_lists(both, nmt):
    both()
    done = nmt("check", "c.yaml", "--json")
    assert done.code == 0
    names = json.loads(done.text)["pairs"]
    assert {"data.train.1", "data.valid.1", "data.test.0"} <= names.keys()


def test_an_export_of_a_tagged_model_is_refused(both, nmt):
    both("transformer")
    assert nmt("train", "c.yaml").code == 0
    nmt("export", "-q", "--to", "ctranslate2", "--model", "run", "--output", "ct2").assert_refused(
        2, "an export sets no tags"
    )


def test_a_tag_of_synthetic_pairs_is_for_training_alone(both, nmt):
    one = {"valid": held_out("valid")[0], "test": held_out("test")[0]}
    plain = {"src": "train.src", "tgt": "train.tgt"}
    both(train=[plain, plain | {"tag": "BT"}], data=one)
    assert nmt("train", "c.yaml").code == 0
    assert "<BT>" in Path("run/tokenizer/spm.vocab").read_text().split("\n")
    assert nmt("translate", "--model", "run", stdin=b"ba\n").code == 0
    both(train=[plain, plain], data=one, run_dir="untagged")
    assert nmt("train", "c.yaml").code == 0
    assert "<BT>" not in Path("untagged/tokenizer/spm.vocab").read_text()
