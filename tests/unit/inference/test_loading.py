"""A model folder in memory is the model that was published."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nmt import errors
from nmt.checkpoint import folder
from nmt.inference import loading, translator
from nmt.models import seq2seq
from nmt.search import ensemble

FLOAT = torch.float32


@torch.no_grad()
def _logits(model: seq2seq.Seq2Seq) -> torch.Tensor:
    source = torch.tensor([[40, 50, 60, 2], [70, 2, 3, 3]])
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    states, _ = model(source, mask, torch.tensor([[1, 45, 55], [1, 65, 75]]))
    return model.logits(states)


@pytest.fixture(scope="module", params=["rnn", "cnn", "transformer"])
def published(
    request: pytest.FixtureRequest,
    make_model: Callable[..., seq2seq.Seq2Seq],
    publish: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, seq2seq.Seq2Seq]:
    """A model of each family, and the folder that it was published into."""
    model = make_model(request.param, dtype=FLOAT)
    path = tmp_path_factory.mktemp("loading") / "run"
    return publish(path, request.param, model), model


def test_publishing_and_loading_changes_no_bit(published):
    path, model = published
    loaded = loading.load(path)
    assert isinstance(loaded.model, seq2seq.Seq2Seq)
    assert torch.equal(_logits(loaded.model), _logits(model))
    assert not loaded.model.training
    assert loaded.model.output.weight is loaded.model.tgt_embedding.weight  # tied as before


def test_a_folder_that_was_moved_gives_the_same_translations(published, corpus, tmp_path):
    path, _ = published
    moved = Path(shutil.copytree(path, tmp_path / "elsewhere"))
    results = []
    for place in (path, moved):
        loaded = loading.load(place)
        machine = translator.Translator(
            loaded.model, loaded.texts, loaded.config.decoding, loaded.arithmetic
        )
        results.append(machine.translate(corpus[:4]))
    assert results[0] == results[1]


def test_the_precision_of_the_configuration_counts_unless_another_is_given(
    publish, make_model, tmp_path
):
    path = publish(
        tmp_path / "run", "rnn", make_model("rnn", dtype=FLOAT), decoding="{precision: fp64}"
    )
    for given, name, dtype in (
        (None, "fp64", torch.float64),
        ("fp32", "fp32", FLOAT),
        ("bf16", "bf16", FLOAT),
        ("auto", "fp32", FLOAT),
    ):
        loaded = loading.load(path, precision=given)
        assert loaded.arithmetic.name == name
        assert isinstance(loaded.model, seq2seq.Seq2Seq)
        assert {parameter.dtype for parameter in loaded.model.parameters()} == {dtype}
    assert loaded.config.decoding.precision == "fp64"


def test_two_vocabularies_are_loaded_each_on_its_side(publish, make_model, tmp_path, corpus):
    model = make_model("transformer", sizes=(310, 300), dtype=FLOAT)
    path = publish(tmp_path / "run", "transformer", model, tgt_seed=2)
    loaded = loading.load(path)
    assert len(loaded.texts.src.vocab) == 310 and len(loaded.texts.tgt.vocab) == 300
    assert torch.equal(_logits(loaded.model), _logits(model))
    texts = loading.load_texts(path)
    assert texts.src.encode(corpus[0]) == loaded.texts.src.encode(corpus[0])
    assert texts.tgt.vocab == loaded.texts.tgt.vocab != texts.src.vocab


def test_a_folder_that_is_not_there_or_altered_is_named(published, tmp_path):
    with pytest.raises(errors.ModelError, match="nowhere"):
        loading.load(tmp_path / "nowhere")
    damaged = Path(shutil.copytree(published[0], tmp_path / "damaged"))
    data = bytearray((damaged / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (damaged / "model.safetensors").write_bytes(data)
    with pytest.raises(errors.ModelError, match=r"damaged/model\.safetensors: altered"):
        loading.load(damaged)


def test_weights_of_another_shape_are_refused(publish, make_model, tmp_path):
    path = publish(tmp_path / "run", "rnn", make_model("rnn", sizes=(310, 300), dtype=FLOAT))
    with pytest.raises(errors.ModelError, match=r"model\.safetensors: the tensors do not fit"):
        loading.load(path)


def test_a_device_or_a_precision_that_is_not_there_is_refused(published):
    path, _ = published
    with pytest.raises(errors.UsageError, match=r"device: no such device \(given: gpu\)"):
        loading.load(path, device="gpu")
    with pytest.raises(errors.UsageError, match="precision: fp16 needs a GPU"):
        loading.load(path, device="cpu", precision="fp16")


def test_one_folder_is_no_ensemble_and_several_are_one(publish, make_model, tmp_path, corpus):
    models = [make_model("rnn", seed, dtype=FLOAT) for seed in (0, 1)]
    first = publish(tmp_path / "first", "rnn", models[0], decoding="{beam_size: 2}")
    second = publish(tmp_path / "second", "rnn", models[1], decoding="{beam_size: 7}")
    alone = loading.load_all([first])
    assert torch.equal(_logits(alone.model), _logits(models[0]))
    both = loading.load_all([first, second])
    assert isinstance(both.model, ensemble.Ensemble)
    assert both.config.decoding.beam_size == 2
    machine = translator.Translator(both.model, both.texts, both.config.decoding, both.arithmetic)
    (found,) = machine.translate([corpus[0]])[0]
    # The forced score is the log of the mean probability, token by token.
    source = torch.tensor([[*both.texts.src.encode(corpus[0]), 2]])
    wanted = [*found.tokens, 2]
    with torch.no_grad():
        inputs = torch.tensor([[1, *wanted[:-1]]])
        mask = torch.ones_like(source, dtype=torch.bool)
        parts = [model.logits(model(source, mask, inputs)[0])[0].softmax(-1) for model in models]
    forced = torch.stack(parts).mean(0)[torch.arange(len(wanted)), wanted].log().sum()
    assert found.log_probability == pytest.approx(float(forced), rel=1e-5)


def test_shares_belong_to_the_models_in_their_order(publish, make_model, tmp_path):
    models = [make_model("rnn", seed, dtype=FLOAT) for seed in (0, 1)]
    paths = [publish(tmp_path / str(n), "rnn", model) for n, model in enumerate(models)]
    source, inputs = torch.tensor([[40, 50, 2]]), torch.tensor([[1, 45]])
    mask = torch.ones_like(source, dtype=torch.bool)
    joined = loading.load_all(paths, shares=[0.9, 0.1]).model
    with torch.no_grad():
        parts = [model.logits(model(source, mask, inputs)[0]).softmax(-1) for model in models]
        found = joined(source, mask, inputs)[0].exp()
    torch.testing.assert_close(found, 0.9 * parts[0] + 0.1 * parts[1])


@pytest.mark.parametrize(("count", "shares"), [(2, [0.5]), (2, [1.0] * 3), (1, [1.0])])
def test_shares_that_do_not_fit_the_models_are_refused_before_they_are_read(count, shares):
    text = f"--ensemble-weights: wants one weight for each .* {len(shares)} for {count}"
    with pytest.raises(errors.UsageError, match=text):
        loading.load_all([Path("nowhere")] * count, shares=shares)


@pytest.mark.parametrize(
    ("seeds", "side"), [({"seed": 1, "tgt_seed": 3}, "tgt"), ({"seed": 4, "tgt_seed": 2}, "src")]
)
def test_an_ensemble_of_other_vocabularies_is_refused(publish, make_model, tmp_path, seeds, side):
    model = make_model("rnn", sizes=(310, 300), dtype=FLOAT)
    first = publish(tmp_path / "first", "rnn", model, seed=1, tgt_seed=2)
    same = publish(tmp_path / "same", "rnn", model, seed=1, tgt_seed=2)
    other = publish(tmp_path / "other", "rnn", model, **seeds)
    assert isinstance(loading.load_all([first, same]).model, ensemble.Ensemble)
    for paths in ([first, other], [first, same, other]):
        with pytest.raises(errors.UsageError) as caught:
            loading.load_all(paths)
        text = f"--model {other}: its {side} vocabulary is not that of {first}."
        assert str(caught.value).startswith(text)


def test_the_model_is_the_named_one_or_the_default_and_then_it_is_said(
    monkeypatch, tmp_path, caplog
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NMT_MODEL", raising=False)
    caplog.set_level(logging.INFO, logger="nmt.inference.loading")
    assert loading.find_model(["a", "b"]) == [Path("a"), Path("b")]
    assert caplog.messages == []
    for nothing in (None, []):
        with pytest.raises(errors.ModelError, match="--model"):
            loading.find_model(nothing)
    folder.record_last_run(Path("runs/x"))
    assert loading.find_model(None) == [Path("runs/x")]
    monkeypatch.setenv("NMT_MODEL", "runs/y")
    assert loading.find_model([]) == [Path("runs/y")]
    assert loading.find_model(["runs/z"]) == [Path("runs/z")]
    assert [message.split(" ")[1] for message in caplog.messages] == ["runs/x", "runs/y"]


def test_threads_are_set_only_if_they_are_given(monkeypatch):
    given = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    loading.set_up_threads(None)
    assert given == []
    loading.set_up_threads(3)
    assert given == [3]
