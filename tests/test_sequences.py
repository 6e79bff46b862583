"""The sequence models and their arithmetic, compared with sums, counts by hand and Python's arithmetic."""

import csv
import json
import math

import pytest
import torch
from conftest import small

import data
import metrics
import models
import train
from models import Batch, ModelError

MODELS = [name for name, cls in models.MODELS.items() if "drawn" in cls.defaults]
TINY = dict(encoder_hidden=8, decoder_hidden=8, bidirectional=True, attention=True)
PICTURES = dict(
    text2text={},
    image2text=dict(encoder_layers="4,3,2,1 4,3,2,1", batch_norm=True, frame_size=4, augment=True),
)
PICTURES |= dict(text2image=dict(dense=8, decoder_start=(4, 7, 7), decoder_layers="4,3,2,1,1 1,3,2,1,1"))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def splits():
    """Training splits by what is drawn of them."""
    return {side: data.load("arithmetic", drawn=side).train for side in (None, "query", "answer")}


def tiny(model, **options):
    return models.build(model, n_classes=13, **TINY | PICTURES[model] | options)


def make_batch(model, splits, n=6):
    index = torch.arange(n) * 1000
    return Batch(*splits[models.MODELS[model].defaults["drawn"]].batch(index), index)


def linear(a, b):
    return a * b + b


def lstm(inputs, hidden, depth=1):
    return sum(4 * hidden * (size + hidden + 2) for size in [inputs] + [hidden] * (depth - 1))


WRITER = linear(256, 6272) + 128 * 64 * 9 + 64 + 64 * 9 + 1
READER = 16 * 25 + 2 * 16 + 16 * 32 * 25 + 2 * 32 + linear(32 * 7 * 7, 13)  # batch norm stands for the bias
REPORTS = {  # name: (model, flags, parameters)
    "R2.3": ("text2text", {}, lstm(13, 256) + lstm(256, 256) + linear(256, 13)),
    "R2.3b": ("text2text", dict(encoder_depth=2), lstm(13, 256, 2) + lstm(256, 256) + linear(256, 13)),
    "R2.4": ("image2text", {}, 32 * 9 + 32 + lstm(5408, 256) + lstm(256, 256) + linear(256, 13)),
    "R2.5": ("text2image", {}, lstm(13, 256) + linear(256, 128) + lstm(128, 256) + WRITER + READER),
}


@pytest.mark.parametrize("name", REPORTS)
def test_the_plain_models_are_the_reports(name):
    model, flags, parameters = REPORTS[name]
    built = models.build(model, n_classes=13, **flags)
    assert sum(p.numel() for p in built.parameters()) == parameters


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "options", [{}, dict(bidirectional=False), dict(attention=False, encoder_depth=2)], ids=str
)
def test_each_turn_reaches_all_its_weights_and_no_other(model, options, splits):
    built = tiny(model, **options)
    batch = make_batch(model, splits)
    turns, seen = built.turns(), []
    assert len(turns) == (2 if model == "text2image" else 1)
    for groups, loss_function in turns:
        stepped = {id(p) for group in groups for p in group["params"]}
        built.zero_grad()
        loss, parts = loss_function(batch, 0)
        loss.backward()
        reached = {id(p) for p in built.parameters() if p.grad is not None and p.grad.any()}
        assert reached == stepped
        assert all(part.shape == () and part.isfinite() for part in parts.values())
        seen += stepped
    assert len(seen) == len(set(seen)) == len(list(built.parameters()))
    assert "loss" in parts and parts["loss"] is loss
    assert parts.keys() <= models.UNITS.keys()


@pytest.mark.parametrize("model", MODELS)
def test_shapes_and_saving(model, splits, tmp_path):
    built = tiny(model).eval()
    x, y, _ = make_batch(model, splits)
    answers = built.predict(x)
    assert answers.shape == y.shape
    if model == "text2image":
        assert answers.min() >= 0 and answers.max() <= 1
        answers = built.read(answers)
    assert answers.dtype == torch.int64 and answers.shape == (6, 3)
    assert answers.min() >= 0 and answers.max() < 13
    models.save(tmp_path / "best.pt", built)
    assert torch.equal(models.load(tmp_path / "best.pt").predict(x), built.predict(x))


@pytest.mark.parametrize("model", MODELS)
def test_a_loss_is_a_mean_over_answers(model, splits):
    built, (x, y, _) = tiny(model).eval(), make_batch(model, splits)
    whole = built.loss(Batch(x, y, None), math.inf)[0]
    each = [built.loss(Batch(x[i : i + 1], y[i : i + 1], None), math.inf)[0] for i in range(len(x))]
    torch.testing.assert_close(whole, torch.stack(each).mean())
    output = built(x)
    if model == "text2image":
        torch.testing.assert_close(whole, (output - y).square().sum() / len(x))
    else:
        chances = output.softmax(2).gather(2, y[:, :, None])  # of the right characters
        torch.testing.assert_close(whole, -chances.log().sum() / len(x))


def test_characters_and_whole_answers_are_counted():
    y = torch.tensor([[1, 2, 3], [4, 5, 6]])
    answers = torch.tensor([[1, 2, 3], [4, 0, 6]])
    accuracy = {name: value.item() for name, value in models.answer_accuracy(answers, y).items()}
    assert accuracy == pytest.approx({"characters": 500 / 6, "exact": 50})


def test_results_are_the_answers_of_the_data_set(splits):
    assert models.SYMBOLS == data.ALPHABET
    assert torch.equal(models.solve_queries(splits[None].x), splits[None].y)


@pytest.mark.parametrize("model", MODELS)
def test_a_few_answers_are_learned_by_heart(model, splits):
    built = tiny(model, encoder_hidden=32, decoder_hidden=32)
    batch = make_batch(model, splits, 4)
    turns = [(torch.optim.Adam(groups, 0.02), loss) for groups, loss in built.turns()]
    first = built.loss(batch, 0)[0].item()
    built.augment = False
    for _ in range(150):
        for optimizer, loss_function in turns:
            optimizer.zero_grad()
            loss_function(batch, 0)[0].backward()
            optimizer.step()
    loss = built.loss(batch, 0)[0].item()
    assert loss < 0.3 * first if model == "text2image" else loss < 0.1
    if model == "text2image":
        assert built.reader_loss(batch, 0)[1]["reader"] > 90


def test_attention_looks_at_every_character_and_the_last_state_alone_does_not(splits):
    x = splits[None].x[:2]
    for attention in (True, False):
        built = tiny("text2text", attention=attention, bidirectional=False)
        outputs, run = [], built.encoder.forward
        built.encoder.forward = lambda frames, run=run, keep=outputs: keep.append(run(frames)) or keep[0]
        loss = built(x).sum()
        (gradient,) = torch.autograd.grad(loss, outputs[0][0], allow_unused=True)
        assert (gradient is not None and gradient.abs().sum((0, 2)).min() > 0) == attention


@pytest.fixture
def few_queries(monkeypatch):
    """Arithmetic of 160 training and 40 test queries."""
    load = data.load_arithmetic

    def shortened(*arguments):
        dataset = load(*arguments)
        for name, n in (("train", 160), ("valid", 32), ("test", 40)):
            split = getattr(dataset, name)
            setattr(dataset, name, split._replace(x=split.x[:n], y=split.y[:n]))
        return dataset

    monkeypatch.setattr(data, "load_arithmetic", shortened)


@pytest.mark.parametrize("model", MODELS)
def test_a_run_can_be_trained_resumed_and_judged(model, few_queries, tmp_path, capsys):
    whole, half = tmp_path / "whole", tmp_path / "half"
    for folder, epochs in ((whole, 4), (half, 2)):
        assert train.main(small(model, "arithmetic", f"--epochs {epochs}", folder)) == 0
    assert train.main(["--resume", str(half), "--epochs", "4"]) == 0
    first, second = (torch.load(f / "last.pt", weights_only=True)["weights"] for f in (whole, half))
    assert all(torch.equal(first[name], second[name]) for name in first)
    flags = json.loads((whole / "config.json").read_text())["flags"]
    assert flags["data"] == "arithmetic" and flags["drawn"] == models.MODELS[model].defaults["drawn"]
    rows = list(csv.DictReader((whole / "log.csv").read_text().splitlines()))
    assert all(float(row["loss [nats/answer]"]) > 0 for row in rows)
    summary = json.loads((whole / "summary.json").read_text())
    capsys.readouterr()
    assert metrics.main([str(whole), "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    if model != "image2text":  # of which other pictures are drawn
        assert report["exact"] == pytest.approx(summary["test"]["exact"], abs=1e-3)
    assert sum(report["errors"].values()) == round(40 * (1 - report["exact"] / 100))
    assert metrics.main([str(whole)]) == 0
    text = capsys.readouterr().out
    assert f"{report['exact']:.2f}% of answers right" in text and ("all-black" in text) == (
        model == "text2image"
    )


def test_the_data_follow_the_model_and_no_other_pair_is_taken(refused, tmp_path):
    for argv in (["--model", "vae", "--data", "arithmetic"], ["--model", "text2text", "--data", "mnist10k"]):
        assert "--data arithmetic goes with" in refused(train.main, [*argv, "--out", tmp_path / "run"])
    assert not (tmp_path / "run").exists()
    with pytest.raises(ModelError, match="13 symbols"):
        models.build("text2text", n_classes=10)
    with pytest.raises(ModelError, match="objective"):
        models.build("text2image", n_classes=13, objective="cross-entropy")


@pytest.mark.parametrize("answer,truth,expected", [
    ("46 ", "46 ", None), ("47 ", "46 ", "off by 1"), ("36 ", "46 ", "off by 10"),
    ("-1 ", "0  ", "off by 1"),
    ("146", "46 ", "off by another number"), ("4 6", "46 ", "no number"), ("   ", "46 ", "no number"),
    ("046", "46 ", "no number"), ("-0 ", "0  ", "no number"), ("+46", "46 ", "no number"),
    ("--1", "-1 ", "no number"),
])  # fmt: skip
def test_sizes_of_errors(answer, truth, expected):
    assert metrics.size_of_error(answer, truth) == expected


@pytest.mark.parametrize("query,expected", [
    ("12+34", 0), ("8+7  ", 1), ("58+67", 2), ("50+60", 1), ("52-38", 1), ("38-52", 1),
    ("52-31", 0), ("9-9  ", 0),
])  # fmt: skip
def test_carries_and_borrows(query, expected):
    assert metrics.carries(query) == expected


def test_spelling_adds_the_cross_entropy_of_the_characters_and_nothing_else(splits):
    batch = make_batch("text2image", splits)
    model, plain = tiny("text2image", spelling=2.0), tiny("text2image")
    loss, parts = model.loss(batch, 0)
    squares = (model(batch.x) - batch.y).square().sum() / len(batch.x)
    tokens = models.solve_queries(batch.x)
    named = model.speller(model.states(batch.x)).log_softmax(2).gather(2, tokens[:, :, None])
    torch.testing.assert_close(loss, squares - 2 * named.mean())
    torch.testing.assert_close(parts["mse"] * batch.y[0].numel(), squares)
    assert plain.speller is None and "spelling" not in plain.loss(batch, 0)[1]
