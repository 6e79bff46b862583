"""Pictures: that they show what they say, row by row, and that every kind can be drawn."""

import argparse
import shutil

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import data
import models
import sample


@pytest.fixture
def drawn(monkeypatch):
    """What the last picture shows, recorded when its figure is closed: images, texts and axes."""
    contents = {}

    def record_and_close(figure):
        axes = figure.axes[0]
        contents["images"] = [image.get_array() for image in axes.images]
        contents["texts"] = [text.get_text() for text in axes.texts if text.get_text()]
        contents["axes"] = figure.axes
        close(figure)

    close = plt.close
    monkeypatch.setattr(plt, "close", record_and_close)
    return contents


def as_tensor(images):
    """The gray images of a grid as [n, 1, H, W]."""
    return torch.stack([torch.from_numpy(np.asarray(image)) for image in images])[:, None]


@pytest.fixture
def grid():
    """Six images in a grid of 2 x 3, and the axes of their figure."""
    images = torch.rand(2, 3, 1, 4, 4)
    captions = [["a", "b", "c"], ["d", "e", "f"]]
    correct = [[True, False, True], [False, True, None]]
    figure = sample.image_grid(images, "title", ["up", "down"], ["1", "2", "3"], captions, correct)
    yield images, figure.axes[0]
    plt.close(figure)


def test_a_grid_shows_each_image_once_in_reading_order(grid):
    images, axes = grid
    for image, shown in zip(images.flatten(0, 1), axes.images, strict=True):
        assert np.array_equal(image[0], shown.get_array())


def test_a_grid_grows_to_the_right_and_downwards(grid):
    _, axes = grid
    left = [image.get_extent()[0] for image in axes.images]
    bottom = [image.get_extent()[2] for image in axes.images]
    assert left[0] < left[1] < left[2] == left[5] and bottom[0] == bottom[2] > bottom[3]


def test_a_grid_marks_captions_by_signs_and_by_colors(grid):
    _, axes = grid
    colors = {text.get_text(): text.get_color() for text in axes.texts}
    assert colors.keys() == {"up", "down", "1", "2", "3", "✓ a", "✗ b", "✓ c", "✗ d", "✓ e", "f"}
    assert colors["✓ a"] == colors["✓ e"] != colors["✗ b"] == colors["✗ d"]


def test_a_grid_of_color_keeps_its_colors():
    images = torch.rand(1, 2, 3, 5, 5)
    figure = sample.image_grid(images, "")
    assert np.allclose(figure.axes[0].images[1].get_array(), images[0, 1].permute(1, 2, 0))
    plt.close(figure)


@pytest.mark.parametrize("columns", [2, 5, 10])
def test_a_long_title_stays_inside_its_figure_and_above_its_images(columns):
    title = (
        "samples of r0-cvae-conv-beta2 by class, latents cut off at ±2: 80% named as their class by r0-judge"
    )
    figure = sample.image_grid(torch.rand(1, columns, 1, 4, 4), title)
    figure.canvas.draw()
    text = figure.texts[0].get_window_extent()
    axes = figure.axes[0].get_window_extent()
    assert text.x0 > 0 and text.x1 < figure.bbox.width
    assert text.y1 < figure.bbox.height and text.y0 > axes.y1
    plt.close(figure)


@pytest.mark.parametrize("scale, truncate, text", [
    (1, None, ""),
    (0.5, None, "latents x 0.5"),
    (1, 2.0, "latents cut off at ±2"),
    (0.5, 1.5, "latents x 0.5, cut off at ±1.5"),
])  # fmt: skip
def test_latents_are_described_where_they_are_not_plain_samples(scale, truncate, text):
    assert sample.describe_latents(scale, truncate) == text


def test_every_option_of_a_picture_is_a_flag():
    flags = sample.flags().names
    for picture in sample.PICTURES.values():
        for function in (picture.draw, picture.compare, picture.without_encoder):
            if function:
                assert sample.options_of(function) <= flags


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
    assert drawn["texts"] == [
        "train: original", "reconstruction", "valid: original", "reconstruction",
        "test: original", "reconstruction"]  # fmt: skip
    model = models.load(folder / "best.pt")
    dataset = data.load(digits)
    for k, split in enumerate(data.SPLITS):
        originals = rows[2 * k]
        pictures = dataset.split(split).x.float() / 255
        assert all(any(torch.equal(x, y) for y in pictures) for x in originals), split
        with torch.inference_mode():
            assert torch.allclose(model.reconstruct(originals), rows[2 * k + 1], atol=1e-6)


def test_class_samples_are_marked_right_where_the_judge_agrees(run, drawn):
    folder = run("cvae")
    judge = run("classifier")
    argv = [str(folder), "--what", "class", "--classes", "3,5", "-n", "6", "--judge", str(judge)]
    assert sample.main(argv) == 0
    images = as_tensor(drawn["images"])
    with torch.inference_mode():
        confidence, predicted = models.load(judge / "best.pt").predict(images).max(1)
    labels = [3] * 6 + [5] * 6
    expected = [
        f"{'✓' if c == y else '✗'} {c} {p:.0%}"
        for c, y, p in zip(predicted, labels, confidence, strict=True)
    ]
    assert [text for text in drawn["texts"] if text[0] in "✓✗"] == expected


def test_class_samples_have_their_class_beside_them(run, drawn):
    assert sample.main([str(run("cvae")), "--what", "class", "--classes", "3,5", "-n", "6"]) == 0
    assert drawn["texts"] == ["3", "5"]


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


def test_interpolation_pairs_one_class_where_the_model_is_conditional(run, digits, drawn):
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
    images = as_tensor(drawn["images"]).unflatten(0, (5, 5))
    model = models.load(folder / "best.pt")
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
    history = torch.load(folders[0] / "last.pt", weights_only=True)["state"]["history"]
    logged = [row["kl"] for row in history if row["split"] == "valid" and row["epoch"] > 0]
    line = next(line for line in drawn["axes"][2].lines if line.get_label() == "vae, validation")
    assert list(line.get_xdata()) == [1, 2] and list(line.get_ydata()) == pytest.approx(logged)
    assert len(drawn["axes"][0].lines) == 4
    (legend,) = drawn["axes"][0].figure.legends  # beside the panels, where it hides no curve
    assert [text.get_text() for text in legend.get_texts()] == ["vae", "cvae"]


def test_a_classifier_shows_real_pictures_with_its_own_answers(run, drawn):
    assert sample.main([str(run("classifier")), "--what", "real", "-n", "4"]) == 0
    assert len([text for text in drawn["texts"] if text[0] in "✓✗"]) == 16


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
    is_other = arrays["y_test"] != 7
    arrays["x_test"] = arrays["x_test"][is_other]
    arrays["y_test"] = arrays["y_test"][is_other]
    np.savez(tmp_path / "no7.npz", **arrays)
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(run("ae") / "best.pt", folder)
    config = (run("ae") / "config.json").read_text()
    (folder / "config.json").write_text(config.replace(digits, str(tmp_path / "no7.npz")))
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
    assert drawn["texts"] == ["epoch 0", "epoch 1", "epoch 2"]


def test_untrained_shows_the_weights_that_training_began_with(run, digits, drawn):
    folder = run("ae")
    assert sample.main([str(folder), "--what", "untrained", "-n", "4"]) == 0
    x, before, after = as_tensor(drawn["images"]).unflatten(0, (3, 4))
    checkpoint = torch.load(folder / "last.pt")
    torch.manual_seed(checkpoint["config"]["flags"]["seed"])
    initial = models.build(checkpoint["model"], **checkpoint["arguments"]).eval()
    trained = models.load(folder / "best.pt")
    with torch.inference_mode():
        assert torch.allclose(initial.reconstruct(x), before, atol=1e-6)
        assert torch.allclose(trained.reconstruct(x), after, atol=1e-6)


def test_an_auto_decoder_shows_its_learned_latents(run, digits, drawn):
    folder = run("vad", "--refine-epochs", "1")
    model = models.load(folder / "best.pt")
    dataset = data.load(digits, valid_fraction=0)
    assert sample.main([str(folder), "--what", "reconstruct", "-n", "5"]) == 0
    rows = as_tensor(drawn["images"]).unflatten(0, (-1, 5))
    assert drawn["texts"] == [
        "train: original", "reconstruction", "test: original", "reconstruction"]  # fmt: skip
    for k, (split, params) in enumerate((("train", model.refined), ("test", model.test_latents))):
        pictures = dataset.split(split).x / 255
        index = [next(i for i, y in enumerate(pictures) if torch.equal(x, y)) for x in rows[2 * k]]
        expected = model.decode(model.distribution.from_params(params[index]).mean)
        assert torch.allclose(expected, rows[2 * k + 1], atol=1e-6)


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
@pytest.mark.parametrize("what", ["answers", "errors"])
def test_cards_mark_an_answer_as_python_would(what, model, run, drawn):
    assert sample.main([str(run(model)), "--what", what, "-n", "3", "--rows", "2"]) == 0
    assert len(drawn["texts"]) == 6
    for card in drawn["texts"]:
        question, _, answer = card[2:].partition(" = ")
        predicted, _, correction = answer.partition(", not ")
        solution = str(sum(int(part) for part in question.replace("-", "+-").split("+")))
        sign = "✓" if predicted == solution else "✗"
        assert card[0] == sign and correction == ("" if sign == "✓" else solution)
        assert what == "answers" or sign == "✗"


@pytest.mark.parametrize("model, n", [("image2text", 5), ("text2text", 1)])
def test_a_query_is_answered_in_each_handwriting(model, n, run, drawn):
    assert sample.main([str(run(model)), "--what", "query", "--query", "7-19"]) == 0
    assert len(drawn["texts"]) == n and all(text[2:].startswith("7-19 = ") for text in drawn["texts"])


def test_a_query_that_is_none_is_refused(run, refused):
    assert "two" in refused(sample.main, [run("image2text"), "--what", "query", "--query", "7*19"])


@pytest.mark.parametrize("model, what, needs", [
    ("vae", "query", "a model of arithmetic"),
    ("vae", "class", "a conditional model"),
    ("vae", "manifold", "--latent-dim 2"),
    ("image2text", "real", "a model of images"),
    ("gan", "untrained", "a model with an encoder"),
    ("ad", "amortization", "a model with a posterior"),
    ("ae", "prior", "a model that draws samples"),
    ("classifier", "constant", "a model that decodes latents"),
])  # fmt: skip
def test_a_picture_that_the_model_cannot_draw_is_refused(model, what, needs, run, refused):
    assert f"cannot draw --what {what}: that needs {needs}" in refused(
        sample.main, [run(model), "--what", what]
    )


def test_several_runs_are_refused_if_one_of_them_cannot_draw_the_picture(run, refused):
    argv = [run("ae"), run("gan"), "--what", "reconstruct"]
    assert "holds a gan, which cannot draw" in refused(sample.main, argv)


def test_a_judge_that_is_no_classifier_is_refused(run, refused):
    argv = [run("vae"), "--what", "prior", "--judge", run("cvae")]
    assert "not a classifier" in refused(sample.main, argv)
