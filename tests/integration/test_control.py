"""What steers `nmt translate`: flags, JSON lines, constraints, glossaries; lines stay lines."""

import dataclasses
import json
import random
import types
from pathlib import Path

import pytest

from nmt.cli import parser, translate
from nmt.config import schema
from nmt.search import settings as search_settings

SOURCES = ["ba de ki", "lo mu", "na po ri ba", "de", "ki lo mu na"]


@pytest.fixture
def run(nmt, learned):
    """A function that translates with the RNN that has learnt to turn sentences round."""
    folder = learned("rnn") / "run"

    def translate(*flags, lines=(), family=None):
        model = folder if family is None else learned(family) / "run"
        stdin = "".join(f"{line}\n" for line in lines).encode()
        return nmt("translate", "--model", model, *flags, stdin=stdin)

    return translate


@pytest.fixture
def ask(run):
    """A function from objects to the objects that answer them."""

    def answer(*objects, flags=()):
        lines = [one if isinstance(one, str) else json.dumps(one) for one in objects]
        done = run("--format", "jsonl", *flags, lines=lines)
        assert done.code == 0, done.err
        assert len(done.lines) == len(objects)
        return [json.loads(line) if line else "" for line in done.lines], done

    return answer


def test_objects_answer_objects_and_unknown_fields_come_back(ask):
    answers, done = ask({"text": "ba de ki", "id": 7, "x": {"y": [None]}}, "", {"text": " "})
    assert answers[0]["translation"] == "ki de ba"
    assert answers[0]["score"] < 0
    assert set(answers[0]) == {"translation", "score", "id", "x"}
    assert answers[0]["id"] == 7 and answers[0]["x"] == {"y": [None]}
    assert answers[1] == ""
    assert answers[2] == {"translation": "", "score": 0.0}
    assert "could not" not in done.err


def test_every_line_has_options_of_its_own_and_none_concerns_the_others(ask):
    objects = [
        {"text": "ba de ki"},
        {"text": "ba de ki", "beam_size": 2, "nbest": 2},
        {"text": "ba de ki", "target_prefix": "lo"},
        {"text": "ba de ki", "constraints": ["mu po", "ri"], "coverage_penalty": 1},
        {"text": "ba de ki", "avoid": ["de"]},
        {"text": "ba de ki", "sample": True, "temperature": 5, "seed": 3, "nbest": 4},
        {"text": "ba de ki", "token_scores": True, "alignments": True},
        {"text": "ba de ki", "no_repeat_ngram_size": 1, "min_length": 6, "max_length": 9},
        {"text": "ba de ki", "beam_size": 4, "diversity_groups": 2, "nbest": 4},
        {"text": "ba de ki", "repetition_penalty": 3.0, "min_length_ratio": 2.0},
    ]
    together, _ = ask(*objects)
    for one, answer in zip(objects, together, strict=True):
        alone = ask(one)[0][0]
        assert answer.pop("score") == pytest.approx(alone.pop("score"), abs=1e-4)
        for name in ("scores", "token_scores"):
            assert answer.pop(name, []) == pytest.approx(alone.pop(name, []), abs=1e-4)
        assert answer == alone
    assert together[0]["translation"] == "ki de ba"
    assert together[1]["translations"][0] == "ki de ba" and len(together[1]["translations"]) == 2
    assert together[2]["translation"].startswith("lo ")
    assert "mu po" in together[3]["translation"] and "ri" in together[3]["translation"].split()
    assert "de" not in together[4]["translation"]
    assert len(set(together[5]["translations"])) > 1
    assert together[6]["alignment"] == "0-2 1-1 2-0"
    assert together[6]["tokens"] == ["▁ki", "▁de", "▁ba", "</s>"]
    words = together[7]["translation"].split()
    assert len(set(words)) == len(words) >= 5
    assert len(together[8]["translations"]) == 4
    assert len(together[9]["translation"].split()) >= 5


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "ba"', "is no JSON"),
        ('["ba"]', "wants a JSON object"),
        ("[" * 100_000, "is no JSON"),
        ('{"txt": "ba"}', "text: missing"),
        ('{"text": 3}', "text: wants text"),
        ('{"text": "ba", "constraints": "de"}', "constraints: wants a list"),
        ('{"text": "ba", "constraints": [""]}', "constraints: a phrase may not be empty"),
        ('{"text": "ba", "avoid": [3]}', "avoid: wants a list"),
        ('{"text": "ba", "avoid": [" "]}', "avoid: a phrase may not be empty"),
        ('{"text": "ba", "nbest": 99}', "--nbest: more than the beam"),
        ('{"text": "ba", "mbr": "chrf"}', "mbr: is for all lines, not for one. Give --mbr."),
        (
            '{"text": "ba", "constraints": ["a\\ud800"]}',
            "constraints: the target vocabulary cannot",
        ),
        ('{"text": "ba", "nbest": "2"}', "nbest: wants a whole number"),
        ('{"text": "ba", "nbest": -3}', "wants 1 to 1,000"),
        ('{"text": "ba", "nbest": 100000000000}', "wants 1 to 1,000"),
        ('{"text": "ba", "nbest": 1000000000000000000000000}', "wants 1 to 1,000"),
        ('{"text": "ba", "beam_size": 4611686018427387904}', "--beam-size: wants at most 1000"),
        ('{"text": "ba", "patience": 1e30}', "--patience: wants at most 1e+06"),
        ('{"text": "ba", "max_length": 9223372036854775808}', "--max-length: wants at most"),
        ('{"text": "ba", "no_repeat_ngram_size": 9223372036854775808}', "wants at most"),
        ('{"text": "ba", "sample": true, "top_k": 9223372036854775808}', "--top-k: wants at most"),
        ('{"text": "ba", "max_length_ratio": 1e19}', "--max-length-ratio: wants at most"),
        (f'{{"text": "ba", "length_penalty": 1{"0" * 400}}}', "length_penalty: is out of range"),
        ('{"text": "ba", "id": 1e999}', "is no JSON (1e999 is out of range)"),
        ('{"text": "ba", "id": NaN}', "is no JSON (NaN is no number of JSON)"),
        (f'{{"text": "ba", "x": {"[" * 500}{"]" * 500}}}', "in each other 100 times at most"),
        ('{"text": "ba", "beam_size": [[3]]}', "beam_size: wants a value (given: a list"),
        ('{"text": "ba", "constraints": ["\\u0085"]}', "constraints: a phrase may not be empty"),
        ('{"text": "ba", "beam_size": 0}', "--beam-size: wants at least 1"),
        ('{"text": "ba", "beam_size": null}', "beam_size: wants a value"),
        ('{"text": "ba", "top_k": 3}', "would be ignored"),
        ('{"text": "ba", "sample": true, "constraints": ["de"]}', "do not go with sample"),
        (
            '{"text": "ba", "beam_size": 4, "diversity_groups": 2, "constraints": ["de"]}',
            "do not go with diversity_groups",
        ),
        ('{"text": "ba", "beam_size": 3, "diversity_groups": 2}', "divisor of beam_size"),
        ('{"text": "ba", "constraints": ["de ki lo"], "max_length": 3}', "wants 4 target tokens"),
        ('{"text": "ba", "target_prefix": "de ki lo", "max_length": 3}', "target_prefix: wants 4"),
        ('{"text": "ba", "constraints": ["de ki"], "avoid": ["ki"]}', "to be avoided, too"),
        (
            '{"text": "ba", "constraints": ["de de"], "no_repeat_ngram_size": 1}',
            "cannot be met beside",
        ),
    ],
)
def test_a_line_that_is_wrong_harms_no_other(ask, line, message):
    answers, done = ask({"text": "ba de ki"}, line, {"text": "lo mu", "id": "x"})
    assert answers[0]["translation"] == "ki de ba"
    assert message in answers[1]["error"]
    assert answers[2]["translation"] == "mu lo" and answers[2]["id"] == "x"
    assert any(text.startswith("line 2: ") and message in text for text in done.messages)
    assert "lines that could not be translated: 1" in done.messages


def test_minimum_bayes_risk_refuses_numbers_that_cannot_be(ask):
    answers, _ = ask(
        {"text": "ba", "nbest": 0}, {"text": "ba", "nbest": -1}, flags=("--mbr", "chrf")
    )
    assert all("wants 1 to 1,000" in answer["error"] for answer in answers)


def test_what_an_earlier_answer_said_is_no_part_of_this_one(ask):
    answers, _ = ask({"text": "ba", "error": "x", "tokens": 3, "score": 1, "id": 2})
    assert set(answers[0]) == {"translation", "score", "id"}
    assert answers[0]["score"] < 0


def test_a_wrong_object_keeps_its_unknown_fields(ask):
    answers, _ = ask({"text": 3, "id": 5}, {"text": "ba", "beam_size": 0, "id": 6})
    assert [answer["id"] for answer in answers] == [5, 6]
    assert all("error" in answer for answer in answers)


def test_flags_hold_for_lines_that_say_nothing_else(ask):
    objects = ({"text": "ba de ki"}, {"text": "lo mu", "target_prefix": "po"})
    answers, _ = ask(*objects, flags=("--target-prefix", "ri", "--avoid", "lo", "--beam-size", "2"))
    assert answers[0]["translation"].startswith("ri")
    assert answers[1]["translation"].startswith("po")
    assert "lo" not in answers[1]["translation"].split()


def test_a_file_of_constraints_has_a_line_for_each_line(run):
    with open("phrases.tsv", "w") as stream:
        stream.write("po ri\tde\n\nba\n\n" + "lo " * 600 + "\n")
    lines = ["ba de ki", "lo mu", "", "de", "ki"]
    done = run("--constraints", "phrases.tsv", lines=lines)
    assert done.code == 0
    first, second, third, fourth, fifth = done.lines
    assert "po ri" in first and "de" in first.split()
    assert (second, third, fourth, fifth) == ("mu lo", "", "de", "")
    assert any(text.startswith("line 5: constraints: wants 601") for text in done.messages)


@pytest.mark.parametrize(("count", "word"), [(1, "fewer"), (3, "more")])
def test_a_file_of_constraints_with_another_number_of_lines_is_refused(run, count, word):
    with open("phrases.tsv", "w") as stream:
        stream.write("ba\n" * count)
    done = run("--constraints", "phrases.tsv", lines=["ba de", "ki"])
    assert done.code == 1
    assert f"phrases.tsv: has {word} lines than the input" in done.err


def test_a_glossary_applies_where_its_terms_are_words(run):
    with open("terms.tsv", "w") as stream:
        stream.write("ba\tmu mu\nde ki\tpo\nKi\tri\nlo\t\n")
    lines = ["ba lo", "de ki na", "bade", "ki na", "Ki", "ba ba", "lo"]
    plain = run(lines=lines).lines
    found = run("--glossary", "terms.tsv", lines=lines).lines
    assert "mu mu" in found[0] and "lo" in found[0].split()
    assert "po" in found[1].split()
    assert found[2] == plain[2] and found[3] == plain[3]
    assert "ri" in found[4].split()
    assert found[5].count("mu mu") == 2
    assert found[6] == plain[6] == "lo"


def test_a_glossary_may_begin_with_a_byte_order_mark_and_has_to_be_utf8(run):
    with open("terms.tsv", "wb") as stream:
        stream.write("\ufeffba\tmu mu\n".encode())
    assert "mu mu" in run("--glossary", "terms.tsv", lines=["ba lo"]).lines[0]
    with open("terms.tsv", "wb") as stream:
        stream.write("ba\tmü\n".encode("latin-1"))
    run("--glossary", "terms.tsv", lines=["ba"]).assert_refused(1, "terms.tsv: is not UTF-8")


def test_terms_behind_the_limit_of_the_source_do_not_count(run):
    with open("terms.tsv", "w") as stream:
        stream.write("ki\tmu\nba\tpo\n")
    long = "ba " + "lo " * 1500 + "ki " * 900
    done = run("--glossary", "terms.tsv", "--max-length", "40", lines=[long])
    assert "could not be translated" not in done.err
    assert "po" in done.lines[0].split()


def test_bad_bytes_and_a_byte_order_mark_in_a_file_of_constraints(run):
    with open("phrases.tsv", "wb") as stream:
        stream.write("\ufeffmu na\n".encode() + b"\xff\n")
    done = run("--constraints", "phrases.tsv", lines=["ba", "ki"], family="transformer")
    assert "mu na" in done.lines[0]
    assert "lines of --constraints that were not valid UTF-8: 1" in done.err


def test_what_is_kept_comes_letter_by_letter(run):
    lines = ["ba {0} lo", "na <x>ki m²</x> de", "ba de"]
    plain = run(lines=lines, family="transformer").lines
    flags = ["--keep", r"\{\d\}", "--keep", "<x>(.*?)</x>"]
    found = run(*flags, lines=lines, family="transformer")
    assert "{0}" in found.lines[0] and "ki m²" in found.lines[1]
    assert "{0}" not in plain[0] and "m²" not in plain[1]
    assert found.lines[2] == plain[2] and "could not" not in found.err
    with open("terms.tsv", "w") as stream:
        stream.write("ba\tmu mu\n")
    both = run("--glossary", "terms.tsv", *flags, lines=lines, family="transformer").lines
    assert "mu mu" in both[0] and "{0}" in both[0] and "mu mu" in both[2]
    run("--keep", "[", lines=lines).assert_refused(2, "--keep: is no regular expression")


def test_a_longest_length_in_times_of_the_source_is_a_flag(run):
    args = parser.parse(["translate", "--max-length-ratio", "0.5"])
    decoding = schema.DecodingConfig()
    config = types.SimpleNamespace(decoding=decoding)
    assert translate.decoding_of(args, config).max_length_ratio == 0.5 != decoding.max_length_ratio
    run("--max-length-ratio", "-1", lines=["ba"]).assert_refused(2, "--max-length-ratio: wants")


def test_every_option_of_the_search_has_a_flag():
    verb = parser.build()[1]["translate"]
    flags = {flag for action in verb._actions for flag in action.option_strings}
    names = {field.name for field in dataclasses.fields(search_settings.SearchSettings)}
    names -= {"num_best"}  # which is --nbest
    assert {f"--{name.replace('_', '-')}" for name in names} <= flags


@pytest.mark.parametrize("signs", ["|||", "|||||", "||||||||"])
def test_the_sign_between_fields_does_not_end_a_text(signs, run):
    with open("phrases.tsv", "w") as stream:
        stream.write(f"ba {signs} de\n")
    done = run("--constraints", "phrases.tsv", "--format", "moses", lines=["ba"])
    fields = done.lines[0].split("|||")
    assert len(fields) == 4 and f"ba {' '.join(signs)} de" in fields[1]
    assert fields[2].strip().startswith("logprob=")


@pytest.mark.parametrize("line", ["ba", "ba\tde\tki", "\tde", "ba\tmu\nba\tlo"])
def test_a_malformed_glossary_is_refused_with_its_line(run, line):
    with open("terms.tsv", "w") as stream:
        stream.write(f"ki\tlo\n{line}\n")
    run("--glossary", "terms.tsv", lines=["ba"]).assert_refused(1, "terms.tsv:")


def test_scores_and_alignments_stand_behind_tabs(run):
    done = run("--return-scores", "--alignments", "--token-scores", lines=["ba de ki", ""])
    text, score, tokens, alignment = done.lines[0].split("\t")
    assert (text, alignment) == ("ki de ba", "0-2 1-1 2-0")
    numbers = [float(number) for number in tokens.split()]
    assert len(numbers) == 4
    assert float(score) == pytest.approx(sum(numbers) / ((5 + 4) / 6), abs=1e-4)
    assert done.lines[1] == "\t0.000000\t\t"


def test_lines_that_fail_have_as_many_columns_as_the_others(run):
    with open("phrases.tsv", "w") as stream:
        stream.write(f"\n{'de ' * 600}\n")
    flags = ("--return-scores", "--alignments", "--token-scores", "--constraints", "phrases.tsv")
    done = run(*flags, lines=["ba de ki", "ba"])
    assert [line.count("\t") for line in done.lines] == [3, 3]
    assert "lines that could not be translated: 1" in done.err


def test_moses_lines_have_the_alignment_at_their_end(run):
    done = run("--format", "moses", "--alignments", lines=["ba de"])
    assert done.lines[0].startswith("0 ||| de ba ||| logprob=-")
    assert done.lines[0].endswith(" ||| 0-1 1-0")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--sample", "--constraints", "c"), "do not go with sample"),
        (("--sample", "--glossary", "g"), "do not go with sample"),
        (("--format", "jsonl", "--constraints", "c"), "--constraints: does not go with"),
        (("--format", "moses", "--return-scores"), "--return-scores: would be ignored"),
        (("--top-k", "3"), "--top-k: would be ignored"),
        (("--sample", "--beam-size", "3"), "--beam-size: would be ignored"),
        (("--diversity-penalty", "3"), "--diversity-penalty: would be ignored"),
        (("--diversity-groups", "7"), "divisor of beam_size"),
        (("--top-p", "0", "--sample"), "--top-p: wants more than 0"),
        (("--avoid", ""), "avoid: a phrase may not be empty"),
        (("--shortlist", "--avoid", "de"), "--shortlist: would be ignored beside --avoid"),
        (("--shortlist", "--target-prefix", "de"), "--shortlist: would be ignored beside --target"),
        (
            ("--mbr", "chrf", "--sample", "--mbr-candidates", "5000"),
            "--mbr-candidates: wants 1,000",
        ),
        (("--target-prefix", "lo " * 600), "target_prefix: wants 601 target tokens"),
    ],
)
def test_what_holds_for_all_lines_is_refused_before_any_work(run, flags, message):
    for name in ("c", "g"):
        with open(name, "w") as stream:
            stream.write("ba\tde\n")
    run(*flags, lines=["ba"]).assert_refused(2, message)


def test_samples_depend_on_seed_and_text_alone(run):
    generator = random.Random(3)
    lines = [
        " ".join(generator.choices(["ba", "de", "ki", "lo", "mu", "na"], k=n)) for n in range(1, 6)
    ]
    flags = ("--sample", "--temperature", "3", "--nbest", "2")

    def samples(*more, order=range(5)):
        done = run(*flags, *more, lines=[lines[i] for i in order])
        pairs = [done.lines[i : i + 2] for i in range(0, 10, 2)]
        return [pairs[list(order).index(i)] for i in range(5)]

    expected = samples("--seed", "4")
    assert samples("--seed", "4", "--batch-size", "1") == expected
    assert samples("--seed", "4", order=[4, 2, 0, 1, 3]) == expected
    assert samples("--seed", "5") != expected
    assert any(first != second for first, second in expected)


def test_constraints_hold_in_pieces_too(run):
    """The Transformer has learnt with BPE; whole words of the constraint are in the output."""
    with open("phrases.tsv", "w") as stream:
        stream.write("mu na\nxyz\n\n")
    done = run("--constraints", "phrases.tsv", lines=SOURCES[:3], family="transformer")
    assert "mu na" in done.lines[0]
    assert "xyz" in done.lines[1]


def test_objects_may_begin_with_a_byte_order_mark(run):
    done = run("--format", "jsonl", lines=['\ufeff{"text": "ba de"}', '{"text": "ki"}'])
    assert [json.loads(line)["translation"] for line in done.lines] == ["de ba", "ki"]


@pytest.mark.parametrize(("count", "word"), [(1, "fewer"), (3, "more")])
def test_constraints_of_another_number_are_refused_before_any_work(run, count, word):
    Path("phrases.tsv").write_text("ba\n" * count)
    Path("in.txt").write_text("ba de\nki\n")
    done = run("--constraints", "phrases.tsv", "--input", "in.txt", "--output", "out.txt", lines=[])
    done.assert_refused(1, f"phrases.tsv: has {word} lines than the input (2)")
    assert not Path("out.txt").exists()


def test_batches_are_measured_in_one_way(run, nmt):
    done = run("--batch-size", "2", "--batch-tokens", "100", lines=["ba"])
    done.assert_refused(2, "--batch-tokens: would be ignored beside --batch-size")
    done = nmt("evaluate", "--model", "run", "--batch-size", "2", "--batch-tokens", "100")
    done.assert_refused(2, "--batch-tokens: would be ignored beside --batch-size")
