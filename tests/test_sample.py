"""Pictures: that they show what they say, row by row, and that every kind can be drawn."""

import argparse

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import data
import models
import sample


@pytest.fixture
def drawn(monkeypatch):
    """Images, texts and the figure of the last picture, before it is closed."""
    seen = {}

    def keep(figure):
        axes = figure.axes[0]
        seen["images"] = [image.get_array() for image in axes.images]
        seen["texts"] = [text.get_text() for text in axes.texts]
        seen["colors"] = [text.get_color() for text in axes.texts]
        seen["axes"] = figure.axes
        close(figure)

    close = plt.close
    monkeypatch.setattr(plt, "close", keep)
    return seen


def as_tensor(images):
    """Images of a sheet as [n, C, H, W]; here all are gray."""
    return torch.stack([torch.from_numpy(np.asarray(image)) for image in images])[:, None]


def test_a_sheet_shows_each_image_once_in_reading_order_with_its_caption():
    images = torch.rand(2, 3, 1, 4, 4)
    captions = [["a", "b", "c"], ["d", "e", "f"]]
    right = [[True, False, True], [False, True, True]]
    figure = sample.sheet(images, "title", ["up", "down"], ["1", "2", "3"], captions, right)
    axes = figure.axes[0]
    for image, shown in zip(images.flatten(0, 1), axes.images, strict=True):
        assert np.array_equal(image[0], shown.get_array())
    left, bottom = zip(*[(s.get_extent()[0], s.get_extent()[2]) for s in axes.images], strict=True)
    assert left[0] < left[1] < left[2] == left[5] and bottom[0] == bottom[2] > bottom[3]
    texts = {text.get_text(): text.get_color() for text in axes.texts}
    assert {"up", "down", "1", "2", "3", "✓ a", "✗ b", "✗ d", "✓ f"} <= texts.keys()  # not by color alone
    assert texts["✓ a"] == texts["✓ f"] != texts["✗ b"] == texts["✗ d"]
    plt.close(figure)


def test_a_sheet_of_color_keeps_its_colors():
    images = torch.rand(1, 2, 3, 5, 5)
    shown = sample.sheet(images, "").axes[0].images
    assert np.allclose(shown[1].get_array(), images[0, 1].permute(1, 2, 0))


@pytest.mark.parametrize("columns", [2, 5, 10])
def test_a_long_title_stays_inside_its_sheet_and_above_its_images(columns):
    title = (
        "samples of r0-cvae-conv-beta2 by class, latents cut off at ±2: 80% named as their class by r0-judge"
    )
    figure = sample.sheet(torch.rand(1, columns, 1, 4, 4), title)
    figure.canvas.draw()
    text, axes = figure.texts[0].get_window_extent(), figure.axes[0].get_window_extent()
    assert text.x0 > 0 and text.x1 < figure.bbox.width
    assert text.y1 < figure.bbox.height and text.y0 > axes.y1
    plt.close(figure)


LATENT = {"loss", "real", "samples", "epochs", "reconstructions", "interpolation"}
ANSWERS = {"loss", "answers", "errors"}


@pytest.mark.parametrize("model, pictures", [
    ("ae", LATENT - {"samples", "epochs"}),
    ("vae", LATENT),
    ("cvae", LATENT | {"classes"}),
    ("ad", LATENT),
    ("vad", LATENT),
    ("gan", LATENT - {"reconstructions"}),
    ("text2text", ANSWERS),
    ("image2text", ANSWERS),
    ("text2image", ANSWERS),
    ("classifier", {"loss", "real"}),
])  # fmt: skip
def test_every_run_ends_with_all_the_pictures_of_its_model(model, pictures, run):
    folder = run(model)
    assert {path.stem for path in folder.glob("*.png")} == pictures
    for path in folder.glob("*.png"):
        pixels = data.read_picture(path, None)
        assert min(pixels.shape[:2]) > 100 and pixels.std() > 10, path  # neither tiny nor blank


def test_originals_stand_above_their_reconstructions(run, digits, drawn):
    folder = run("ae")
    assert sample.main([str(folder), "--what", "reconstruct", "-n", "5"]) == 0
    rows = as_tensor(drawn["images"]).unflatten(0, (-1, 5))
    assert [text for text in drawn["texts"] if text] == [
        "train: original", "reconstruction", "valid: original", "reconstruction",
        "test: original", "reconstruction"]  # fmt: skip
    model, dataset = models.load(folder / "best.pt"), data.load(digits)
    for k, split in enumerate(data.SPLITS):
        originals, known = rows[2 * k], getattr(dataset, split).x.float() / 255
        assert all(any(torch.equal(x, y) for y in known) for x in originals), split
        with torch.inference_mode():
            assert torch.allclose(model.reconstruct(originals), rows[2 * k + 1], atol=1e-6)


def test_class_samples_are_marked_right_where_the_judge_agrees(run, drawn):
    folder, judge = run("cvae"), run("classifier")
    argv = [str(folder), "--what", "class", "--classes", "3,5", "-n", "6", "--judge", str(judge)]
    assert sample.main(argv) == 0
    images = as_tensor(drawn["images"])
    with torch.inference_mode():
        confidence, named = models.load(judge / "best.pt").predict(images).max(1)
    labels = [3] * 6 + [5] * 6
    captions = [text for text in drawn["texts"] if text[:1] in "✓✗"]
    wanted = [
        f"{'✓' if n == y else '✗'} {n} {p:.0%}" for n, y, p in zip(named, labels, confidence, strict=True)
    ]
    assert captions == wanted
    assert "3" in drawn["texts"] and "5" in drawn["texts"]


def test_the_same_seed_draws_the_same_samples_and_scale_zero_the_center(run, drawn):
    argv = [str(run("vae")), "--what", "prior", "-n", "3"]
    images = {}
    for name, more in (("a", []), ("b", []), ("c", ["--seed", "1"]), ("zero", ["--scale", "0"])):
        assert sample.main([*argv, *more]) == 0
        images[name] = as_tensor(drawn["images"])
    assert torch.equal(images["a"], images["b"]) and not torch.equal(images["a"], images["c"])
    assert (images["zero"] - images["zero"][0]).abs().max() < 1e-6
    center = models.load(run("vae") / "best.pt").decode(torch.zeros(1, 3))
    assert torch.allclose(images["zero"][:1], center, atol=1e-6)


def test_interpolation_ends_at_the_reconstructions_of_the_originals_beside_it(run, drawn):
    assert sample.main([str(run("ae")), "--what", "interpolate", "--classes", "1,7", "-n", "4"]) == 0
    rows = as_tensor(drawn["images"]).unflatten(0, (-1, 6))
    model = models.load(run("ae") / "best.pt")
    with torch.inference_mode():
        for row in rows:
            assert torch.allclose(model.reconstruct(row[[0, 5]]), row[[1, 4]], atol=1e-6)
            z = model.encode(row[[0, 5]])
            assert torch.allclose(model.decode(z[:1] * 2 / 3 + z[1:] / 3), row[2:3], atol=1e-5)


def test_interpolation_pairs_one_class_where_the_decoder_is_told_it(run, digits, drawn):
    x, y = data.load(digits).test
    for model, same in (("ae", False), ("cvae", True)):
        assert sample.main([str(run(model)), "--what", "interpolate", "-n", "2"]) == 0
        for row in as_tensor(drawn["images"]).unflatten(0, (-1, 4)):
            a, b = (
                next(int(y[k]) for k in range(len(x)) if torch.equal(x[k] / 255, end)) for end in row[[0, 3]]
            )
            assert (a == b) is same


def test_manifold_grows_to_the_right_and_upwards(run, drawn):
    folder = run("vae", "--latent-dim", "2")
    assert (folder / "manifold.png").exists()
    assert sample.main([str(folder), "--what", "manifold", "-n", "5"]) == 0
    images, model = as_tensor(drawn["images"]).unflatten(0, (5, 5)), models.load(folder / "best.pt")
    corners = model.decode(torch.tensor([[-2.0, 2.0], [2.0, 2.0], [-2.0, -2.0], [2.0, -2.0]]))
    shown = images[[0, 0, 4, 4], [0, 4, 0, 4]]
    assert torch.allclose(shown, corners, atol=1e-5)
    assert "+2.0" in drawn["texts"] and "-2.0" in drawn["texts"]


def test_curves_overlay_runs_and_leave_out_the_untrained_model(run, drawn, tmp_path):
    folders = [run("vae"), run("cvae")]
    assert sample.main([*map(str, folders), "--what", "curves", "--out", str(tmp_path / "both.pdf")]) == 0
    assert (tmp_path / "both.pdf").read_bytes().startswith(b"%PDF")
    assert [axes.get_title() for axes in drawn["axes"]] == ["loss", "reconstruction", "KL divergence"]
    assert all(axes.get_ylabel() == "nats/image" for axes in drawn["axes"])
    history = torch.load(folders[0] / "last.pt")["state"]["history"]
    logged = [row["kl"] for row in history if row["split"] == "valid" and row["epoch"] > 0]
    line = next(line for line in drawn["axes"][2].lines if line.get_label() == "vae, validation")
    assert list(line.get_xdata()) == [1, 2] and list(line.get_ydata()) == pytest.approx(logged)
    assert len(drawn["axes"][0].lines) == 4
    (legend,) = drawn["axes"][0].figure.legends  # beside the panels, where it hides no curve
    assert [text.get_text() for text in legend.get_texts()] == ["vae", "cvae"]


def test_a_classifier_shows_real_pictures_with_its_own_answers(run, drawn):
    assert sample.main([str(run("classifier")), "--what", "real", "-n", "4"]) == 0
    assert len([text for text in drawn["texts"] if text[:1] in "✓✗"]) == 16


def test_classes_are_chosen_by_name_or_number():
    run = argparse.Namespace(folder="r", classes=["cat", "dog", "3"])
    assert sample.pick_classes(run, "dog, cat") == [1, 0]
    assert sample.pick_classes(run, "1,0") == [1, 0]
    assert sample.pick_classes(run, None) is None
    with pytest.raises(data.Mistake, match="no class 'cow'"):
        sample.pick_classes(run, "cow")


def test_more_pictures_than_there_are_become_as_many_as_there_are(run, drawn):
    assert sample.main([str(run("ae")), "--what", "reconstruct", "-n", "100"]) == 0
    assert len(drawn["images"]) == 6 * 16  # the smallest split, valid, has 16


def test_interpolating_to_a_class_without_test_pictures_is_refused(run, digits, tmp_path, refused):
    with np.load(digits) as whole:
        arrays = dict(whole)
    keep = arrays["y_test"] != 7
    arrays |= {"x_test": arrays["x_test"][keep], "y_test": arrays["y_test"][keep]}
    np.savez(tmp_path / "no7.npz", **arrays)
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("best.pt", "config.json"):
        content = (
            (run("ae") / name).read_bytes().replace(digits.encode(), str(tmp_path / "no7.npz").encode())
        )
        (folder / name).write_bytes(content if name == "config.json" else (run("ae") / name).read_bytes())
    for classes in ("7,1", "1,7"):
        argv = [folder, "--what", "interpolate", "--classes", classes]
        assert "no test picture is of class 7" in refused(sample.main, argv)


def test_snapshots_show_the_same_latents_after_every_epoch(run, drawn):
    folder = run("vae")
    assert sorted(path.name for path in (folder / "epochs").iterdir()) == [
        "0000.png",
        "0001.png",
        "0002.png",
    ]
    assert sample.main([str(folder), "--what", "epochs"]) == 0
    rows = as_tensor(drawn["images"]).unflatten(0, (3, 9))
    model = models.load(folder / "last.pt")
    torch.manual_seed(0)
    last = model.sample(9)
    assert (rows[2] - last).abs().max() < 1.01 / 255
    assert [text for text in drawn["texts"] if text] == ["epoch 0", "epoch 1", "epoch 2"]


def test_untrained_shows_the_weights_that_training_began_with(run, digits, drawn):
    folder = run("ae")
    assert sample.main([str(folder), "--what", "untrained", "-n", "4"]) == 0
    x, before, after = as_tensor(drawn["images"]).unflatten(0, (3, 4))
    checkpoint = torch.load(folder / "last.pt")
    torch.manual_seed(checkpoint["config"]["flags"]["seed"])
    blank = models.build(checkpoint["model"], **checkpoint["arguments"]).eval()
    trained = models.load(folder / "best.pt")
    with torch.inference_mode():
        assert torch.allclose(blank.reconstruct(x), before, atol=1e-6)
        assert torch.allclose(trained.reconstruct(x), after, atol=1e-6)


def test_an_auto_decoder_shows_the_latents_that_it_keeps(run, digits, drawn):
    folder = run("vad", "--refine-epochs", "1")
    model, dataset = models.load(folder / "best.pt"), data.load(digits, valid_fraction=0)
    assert sample.main([str(folder), "--what", "reconstruct", "-n", "5"]) == 0
    rows = as_tensor(drawn["images"]).unflatten(0, (-1, 5))
    assert [text for text in drawn["texts"] if text] == [
        "train: original", "reconstruction", "test: original", "reconstruction"]  # fmt: skip
    for k, (split, numbers) in enumerate((("train", model.refined), ("test", model.test_latents))):
        known = getattr(dataset, split).x / 255
        index = [next(i for i, y in enumerate(known) if torch.equal(x, y)) for x in rows[2 * k]]
        wanted = model.decode(model.distribution.from_params(numbers[index]).mean)
        assert torch.allclose(wanted, rows[2 * k + 1], atol=1e-6)


def test_scaled_and_constant_latents(run, drawn):
    folder = run("vae")
    model = models.load(folder / "best.pt")
    assert sample.main([str(folder), "--what", "scale", "-n", "4"]) == 0
    x, half, same, more = as_tensor(drawn["images"]).unflatten(0, (4, 4))
    with torch.inference_mode():
        z = model.encode(x)
        for factor, shown in ((0.5, half), (1, same), (1.5, more)):
            assert torch.allclose(model.decode(factor * z), shown, atol=1e-6)
        assert sample.main([str(folder), "--what", "constant"]) == 0
        zeros, ones = as_tensor(drawn["images"])
        assert torch.allclose(model.decode(torch.zeros(1, 3))[0], zeros, atol=1e-6)
        assert torch.allclose(model.decode(torch.ones(1, 3))[0], ones, atol=1e-6)


def test_amortization_shows_bounds_that_fitting_lowers(run, drawn):
    assert sample.main([str(run("vae")), "--what", "amortization", "-n", "6"]) == 0
    bounds = torch.tensor([float(text) for text in drawn["texts"] if text.replace(".", "").isdigit()])
    encoded, fitted = bounds.view(2, 6)
    assert fitted.mean() < encoded.mean()


def test_several_runs_reconstruct_the_same_pictures(run, drawn, tmp_path):
    folders = [run("ae"), run("vae")]
    argv = [*map(str, folders), "--what", "reconstruct", "-n", "4", "--out", str(tmp_path / "both.png")]
    assert sample.main(argv) == 0
    x, *rows = as_tensor(drawn["images"]).unflatten(0, (3, 4))
    with torch.inference_mode():
        for folder, shown in zip(folders, rows, strict=True):
            assert torch.allclose(models.load(folder / "best.pt").reconstruct(x), shown, atol=1e-6)


def test_a_gan_interpolates_between_latents_of_its_prior(run, drawn):
    assert (
        sample.main([str(run("gan")), "--what", "interpolate", "-n", "5", "--rows", "2", "--scale", "0"])
        == 0
    )
    images = as_tensor(drawn["images"])
    assert len(images) == 10 and (images - images[0]).abs().max() < 1e-6  # every latent is 0


@pytest.mark.parametrize("model", ["text2text", "image2text", "text2image"])
def test_cards_mark_an_answer_as_python_would(model, run, drawn):
    for what in ("answers", "errors"):
        assert sample.main([str(run(model)), "--what", what, "-n", "3", "--rows", "2"]) == 0
        cards = [text for text in drawn["texts"] if text[:1] in "✓✗"]
        assert len(cards) == 6
        for card in cards:
            question, _, answer = card[2:].partition(" = ")
            told, _, truth = answer.partition(", not ")
            real = str(sum(int(part) for part in question.replace("-", "+-").split("+")))
            assert (
                (told == real) is (card[0] == "✓") and truth in ("", real) and bool(truth) is (told != real)
            )
            assert what == "answers" or card[0] == "✗"


def test_a_query_is_answered_or_refused_in_a_line(run, drawn, refused):
    folder = str(run("image2text"))
    assert sample.main([folder, "--what", "query", "--query", "7-19"]) == 0
    assert all(text[2:].startswith("7-19 = ") for text in drawn["texts"] if text)
    assert "two" in refused(sample.main, [folder, "--what", "query", "--query", "7*19"])
    assert "cannot draw" in refused(sample.main, [run("vae"), "--what", "query"])
    assert "cannot draw" in refused(sample.main, [folder, "--what", "real"])
    assert "not a classifier" in refused(sample.main, [run("vae"), "--what", "prior", "--judge", folder])
