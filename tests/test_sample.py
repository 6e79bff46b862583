"""Pictures: that they show what they say, row by row, and that every kind can be drawn."""

import argparse
import json
import os
import shutil
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

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
        contents["title"] = " ".join(" ".join(text.get_text().split()) for text in figure.texts)
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
    correct = [True, False, True, False, True, None]
    figure = sample.image_grid(images, "title", ["up", "down"], ["1", "2", "3"], list("abcdef"), correct)
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
    (0.5, 1.5, "latents cut off at ±1.5, x 0.5"),
])  # fmt: skip
def test_latents_are_described_where_they_are_not_plain_samples(scale, truncate, text):
    assert sample.describe_latents(scale, truncate) == text


def test_every_option_of_a_picture_is_a_flag():
    flags = sample.flags().names
    for picture in sample.PICTURES.values():
        for function in (picture.draw, picture.compare, picture.of_samples):
            if function:
                assert sample.options_of(function) <= flags


@pytest.fixture
def copy(run, tmp_path):
    """copy(model, *flags, **entries): a copy of a run, with other entries in its config.json."""

    def copy_run(model, *flags, **entries):
        folder = tmp_path / "run"
        shutil.copytree(run(model, *flags), folder)
        change_config(folder, **entries)
        return folder

    return copy_run


def change_config(folder, **entries):
    config = json.loads((folder / "config.json").read_text())
    entries["flags"] = config["flags"] | entries.get("flags", {})
    (folder / "config.json").write_text(json.dumps(config | entries))


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


def test_interpolation_scales_the_latents_of_images(run, drawn):
    argv = [str(run("vae")), "--what", "interpolate", "--classes", "1,7", "-n", "3", "--scale", "0.25"]
    assert sample.main(argv) == 0
    assert "latents x 0.25" in drawn["title"]
    model = models.load(run("vae") / "best.pt")
    with torch.inference_mode():
        for row in as_tensor(drawn["images"]).unflatten(0, (-1, 5)):
            z = model.encode(row[[0, 4]])
            assert torch.allclose(model.decode(z / 4), row[[1, 3]], atol=1e-6)
            assert torch.allclose(model.decode((z[:1] + z[1:]) / 8), row[2:3], atol=1e-6)


@pytest.mark.parametrize("model", ["ae", "vae", "ad", "gan"])
def test_interpolation_between_scaled_latents_of_a_standard_normal(model, run, drawn):
    argv = [str(run(model)), "--what", "interpolate", "--standard-normal", "--scale", "0.5", "--seed", "4"]
    assert sample.main([*argv, "-n", "3", "--rows", "2"]) == 0
    assert "latents of a standard normal, x 0.5" in drawn["title"]
    trained = models.load(run(model) / "best.pt")
    torch.manual_seed(4)
    for row in as_tensor(drawn["images"]).unflatten(0, (2, 3)):
        z = torch.randn(2, 3) / 2
        between = torch.stack([z[0], (z[0] + z[1]) / 2, z[1]])
        with torch.inference_mode():
            assert torch.allclose(trained.decode(between), row, atol=1e-6)


def test_rows_of_a_conditional_model_interpolate_within_the_classes_in_turn(run, drawn):
    flags = "--what interpolate --standard-normal --scale 0 --classes 3,8 -n 2 --rows 3"
    assert sample.main([str(run("cvae")), *flags.split()]) == 0
    model = models.load(run("cvae") / "best.pt")
    expected = model.decode(torch.zeros(6, 3), torch.tensor([3, 3, 8, 8, 3, 3]))
    assert torch.allclose(as_tensor(drawn["images"]), expected, atol=1e-6)


def test_an_auto_decoder_says_from_which_distribution_it_samples(run, drawn):
    argv = [str(run("ad")), "--what", "prior", "-n", "2"]
    model = models.load(run("ad") / "best.pt")
    assert sample.main(argv) == 0
    assert "latents of a Gaussian fitted to the training latents" in drawn["title"]
    torch.manual_seed(0)
    assert torch.allclose(as_tensor(drawn["images"]), model.sample(4), atol=1e-6)
    assert sample.main([*argv, "--standard-normal", "--truncate", "9"]) == 0
    assert "latents of a standard normal, cut off at ±9" in drawn["title"]
    torch.manual_seed(0)
    z = models.Gaussian.prior(4, 3, 9)
    assert torch.allclose(as_tensor(drawn["images"]), model.decode(z), atol=1e-6)


def test_interpolation_pairs_one_class_where_the_model_is_conditional(run, digits, drawn):
    x, y = data.load(digits).test
    for model, same in (("ae", False), ("cvae", True)):
        assert sample.main([str(run(model)), "--what", "interpolate", "-n", "2"]) == 0
        for row in as_tensor(drawn["images"]).unflatten(0, (-1, 4)):
            a, b = (
                next(int(y[k]) for k in range(len(x)) if torch.equal(x[k] / 255, end)) for end in row[[0, 3]]
            )
            assert (a == b) is same


def test_interpolation_pairs_no_image_with_itself(run):
    for classes in (None, "3,3"):  # of each class there are four
        pairs = sample.choose_pairs(sample.Run(run("cvae")), 40, classes, 0)
        assert all(first != second for first, second in pairs)


def test_manifold_grows_to_the_right_and_upwards(run, drawn):
    folder = run("vae", "--latent-dim", "2")
    assert (folder / "manifold.png").exists()
    assert sample.main([str(folder), "--what", "manifold", "-n", "5"]) == 0
    images = as_tensor(drawn["images"]).unflatten(0, (5, 5))
    model = models.load(folder / "best.pt")
    corners = model.decode(torch.tensor([[-2.0, 2.0], [2.0, 2.0], [-2.0, -2.0], [2.0, -2.0]]))
    shown = images[[0, 0, 4, 4], [0, 4, 0, 4]]
    assert torch.allclose(shown, corners, atol=1e-5)
    assert drawn["texts"] == [
        "+2.00",
        "+1.00",
        "+0.00",
        "-1.00",
        "-2.00",
        "-2.00",
        "-1.00",
        "+0.00",
        "+1.00",
        "+2.00",
    ]


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


def test_many_runs_have_a_color_each_and_a_legend_within_the_picture(copy):
    folder = copy("ae")
    figure = sample.draw_curves(*[sample.Run(folder.rename(folder.with_name("a long name" * 3)))] * 9)
    figure.canvas.draw()
    (legend,) = figure.legends
    assert len({str(line.get_color()) for line in legend.get_lines()}) == 9
    box = legend.get_window_extent()
    assert 0 < box.x0 < box.x1 < figure.bbox.width and box.y0 > 0
    plt.close(figure)


def test_curves_of_several_runs_name_the_line_styles_that_they_have(run, drawn):
    assert sample.main([str(run("ad")), str(run("vad")), "--what", "curves"]) == 0
    assert "train dashed, refining dashdot, fitting test dotted" in drawn["title"]


@pytest.mark.parametrize("kl, panels", [
    (5, [["loss"], ["reconstruction", "KL divergence"]]),
    (4, [["loss"], ["reconstruction"], ["KL divergence"]]),  # too small beside the other
])  # fmt: skip
def test_similar_terms_of_one_run_share_a_panel_but_for_the_loss(kl, panels, copy, drawn):
    folder = copy("vae")
    rows = ["epoch,step,split,loss [nats/image],reconstruction [nats/image],kl [nats/image]"]
    rows += ["0,0,valid,300,299,0", "1,9,train,99,98,1", "1,9,valid,98,96,2"]
    rows += [f"2,18,train,{90 + kl},90,{kl}", "2,18,valid,97,93,4"]
    (folder / "log.csv").write_text("\n".join(rows))
    assert sample.main([str(folder), "--what", "curves"]) == 0
    assert [axes.get_title() for axes in drawn["axes"]] == [" and ".join(panel) for panel in panels]
    assert list(drawn["axes"][-1].lines[-1].get_ydata()) == [2, 4]
    legends = [axes.get_legend() for axes in drawn["axes"][1:]]
    splits = ("train", "validation")
    expected = [f"{term}, {split}" for term in panels[1] for split in splits]
    if kl == 5:
        assert [text.get_text() for text in legends[0].get_texts()] == expected
    else:
        assert legends == [None, None]  # the first panel has the only one


def test_an_autoencoder_has_its_error_per_pixel(run, drawn):
    assert sample.main([str(run("ae")), "--what", "curves"]) == 0
    (axes,) = drawn["axes"]
    assert (axes.get_title(), axes.get_ylabel()) == ("MSE", "per pixel")
    history = torch.load(run("ae") / "last.pt", weights_only=True)["state"]["history"]
    logged = [row["mse"] for row in history if row["split"] == "valid" and row["epoch"] > 0]
    assert list(axes.lines[1].get_ydata()) == pytest.approx(logged, rel=1e-5)  # its diagnosis has it too


def test_what_was_trained_for_a_number_of_updates_is_drawn_by_update(run, drawn):
    assert sample.main([str(run("text2text")), "--what", "curves"]) == 0
    loss, accuracies = drawn["axes"]
    assert loss.get_xlabel() == "update" and list(loss.lines[0].get_xdata()) == [3]
    assert accuracies.get_title() == "characters and exact" and accuracies.get_ylabel() == "%"


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
        assert "no test image is of class 7" in refused(sample.main, argv)


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


def test_curves_and_reconstructions_of_the_same_runs_do_not_replace_each_other(run, copy):
    folders = [copy("ae"), run("vae")]
    for what in ("curves", "reconstruct"):
        assert sample.main([*map(str, folders), "--what", what]) == 0
    assert {path.name for path in folders[0].glob("compared-*")} == {
        "compared-loss.png",
        "compared-reconstructions.png",
    }


def test_runs_of_the_same_name_are_told_apart_by_the_folders_above(run, tmp_path):
    for parent in ("small", "large"):
        shutil.copytree(run("ae"), tmp_path / parent / "ae")
    folders = [tmp_path / "small" / "ae", tmp_path / "large" / "ae"]
    assert sample.distinct_names([sample.Run(folder) for folder in folders]) == ["small/ae", "large/ae"]
    assert sample.distinct_names([sample.Run(folders[0]), sample.Run(run("vae"))]) == ["ae", "vae"]


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


def test_a_query_of_ones_own_is_drawn_where_others_are_drawn_once(run, drawn):
    folder = run("image2text", "--draw-once")
    assert sample.main([str(folder), "--what", "query", "--query", "7-9"]) == 0
    first, *others = drawn["images"]
    assert len(others) == 4 and any(not np.array_equal(first, other) for other in others)
    shown = []
    for seed in "12":  # of other digits, if they were not drawn once
        assert sample.main([str(folder), "--what", "answers", "--seed", seed]) == 0
        index = sample.Run(folder).random_batch("test", 30, int(seed))[0].tolist()
        shown.append(dict(zip(index, drawn["images"], strict=True)))
    same = shown[0].keys() & shown[1].keys()
    assert all(np.array_equal(shown[0][place], shown[1][place]) for place in same)


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


# -----------------------------------------------------------------------------------------------------------
# Damaged and contradictory runs


@pytest.mark.parametrize("entries", [
    dict(classes=list("012")),
    dict(image_shape=[1, 28, 28]),
    dict(image_shape=[3, 14, 14]),
    dict(flags=dict(model="ae")),
])  # fmt: skip
def test_a_config_that_contradicts_the_checkpoint_is_refused(entries, copy, refused):
    folder = copy("cvae", **entries)
    assert "in config.json" in refused(sample.main, [folder, "--what", "curves"])


def test_data_of_another_shape_than_the_run_are_refused(copy, refused):
    folder = copy("vae", flags=dict(data="mnist10k"))
    assert "(1, 28, 28) in the data, (1, 14, 14) in" in refused(sample.main, [folder, "--what", "real"])


def test_data_of_other_classes_than_the_run_are_refused(copy, refused):
    folder = copy("ae", classes=["zero"])
    assert "10 classes in the data, 1 in" in refused(sample.main, [folder, "--what", "real"])


def save_changed(digits, path, **changes):
    """A copy of the digits at `path`, in which some arrays are other ones."""
    with np.load(digits) as arrays:
        np.savez(path, **(dict(arrays) | {name: change(arrays[name]) for name, change in changes.items()}))
    return str(path)


def test_a_run_says_when_its_data_have_changed(copy, digits, tmp_path, capsys):
    folder = copy("ae", data_digest=data.digest(data.load(digits)))
    argv = [str(folder), "--what", "reconstruct"]
    capsys.readouterr()
    assert sample.main(argv) == 0 and capsys.readouterr().err == ""
    changed = save_changed(digits, tmp_path / "changed.npz", y_test=np.flip)
    change_config(folder, flags=dict(data=changed))
    assert sample.main(argv) == 0 and "not those that" in capsys.readouterr().err


@pytest.mark.parametrize("old, new", [
    (b"train", b"tr\xffin"),
    (b"split", b"spilt"),
    (b"step", b"stop"),
    (b"\n1,", b"\none,"),
    (b"\n1,", b"\n1 2,"),
    (b",train,", b",train,x"),
    (b",train,", b",train,5 "),
    (b",train,", b",train,5,"),
    (b",,,", b","),
    (b"train", b"\0"),
    (b"train", b'"'),
    (b",valid,", b",train,x"),
])  # fmt: skip
def test_a_damaged_log_is_refused(old, new, copy, refused):
    path = copy("vae") / "log.csv"
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    assert "log.csv is damaged" in refused(sample.main, [path.parent, "--what", "curves"])


@pytest.mark.parametrize("column", [0, 4])
@pytest.mark.parametrize("number", ["nan", "-inf", "1e308", "9" * 300])
def test_a_log_of_odd_numbers_is_drawn_or_refused(number, column, copy):
    path = copy("vae") / "log.csv"
    *lines, last = path.read_text().splitlines()
    cells = last.split(",")
    cells[column] = number
    path.write_text("\n".join([*lines, ",".join(cells)]))
    status = sample.main([str(path.parent), "--what", "curves"])
    assert status == (0 if column == 4 or number.isdigit() else 1)


def test_an_empty_log_is_refused(copy, refused):
    folder = copy("vae")
    (folder / "log.csv").write_text("")
    assert "log.csv holds no finished epoch" in refused(sample.main, [folder, "--what", "curves"])


@pytest.mark.parametrize("damage", [
    lambda path: Image.new("1", (12000, 12000)).save(path),
    lambda path: path.write_bytes(path.read_bytes()[:60]),
    lambda path: path.write_bytes(b"GIF89a"),
    lambda path: Image.new("L", (42, 45)).save(path),
    lambda path: Image.new("L", (28, 28)).save(path),
    lambda path: path.unlink() or os.mkfifo(path),
])  # fmt: skip
def test_a_damaged_snapshot_is_refused(damage, copy, refused, recwarn):
    path = copy("vae") / "epochs" / "0001.png"
    damage(path)
    assert "0001.png is" in refused(sample.main, [path.parent.parent, "--what", "epochs"])
    assert not recwarn.list  # of Pillow, about sizes


def test_pictures_that_are_no_snapshots_are_left_out(copy, drawn):
    folder = copy("vae")
    shutil.copy(folder / "real.png", folder / "epochs" / "mine.png")
    assert sample.main([str(folder), "--what", "epochs"]) == 0
    assert drawn["texts"] == ["epoch 0", "epoch 1", "epoch 2"]


def test_epochs_are_in_the_order_of_their_numbers(copy, drawn):
    folder = copy("vae")
    for epoch in ("9999", "10000"):
        shutil.copy(folder / "epochs" / "0001.png", folder / "epochs" / f"{epoch}.png")
    assert sample.main([str(folder), "--what", "epochs", "--rows", "2"]) == 0
    assert drawn["texts"] == ["epoch 0", "epoch 10000"]


def test_snapshots_do_not_follow_a_link_to_another_folder(run, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (tmp_path / "epochs").symlink_to(mine)
    with pytest.raises(data.Mistake, match="link"):
        sample.snapshot(tmp_path, models.load(run("vae") / "best.pt"), 1)
    assert not list(mine.iterdir())


# -----------------------------------------------------------------------------------------------------------
# Every picture is on its own, and names are drawn as they are


def test_an_auto_decoder_without_test_latents_gets_its_other_pictures(run):
    folder = run("ad", "--fit-epochs", "0")
    assert {path.stem for path in folder.glob("*.png")} == LATENT - {"reconstructions", "interpolation"}


@pytest.mark.parametrize("error, reason", [
    (ZeroDivisionError("a defect"), "ZeroDivisionError: a defect"),
    (MemoryError(), "MemoryError: "),
    (OSError("no room"), "no room"),
    (models.ModelError("no latents"), "no latents"),
])  # fmt: skip
def test_a_picture_that_fails_costs_no_other(error, reason, copy, monkeypatch, capsys):
    def fail(run):
        raise error

    folder = copy("vae")
    for path in folder.glob("*.png"):
        path.unlink()
    monkeypatch.setattr(sample.PICTURES["real"], "draw", fail)
    run = sample.Run(folder)
    capsys.readouterr()  # of the training, if no test before has used this run
    paths = sample.draw_run(folder, run.model, run.dataset)
    assert {path.stem for path in paths} == {path.stem for path in folder.glob("*.png")} == LATENT - {"real"}
    assert capsys.readouterr().err == f"note: no picture of --what real: {reason}\n"


def test_a_command_that_draws_all_pictures_says_by_its_status_that_one_is_missing(copy, monkeypatch, capsys):
    folder = copy("vae")
    (folder / "log.csv").unlink()
    capsys.readouterr()
    assert sample.main([str(folder)]) == 1
    assert len(capsys.readouterr().out.splitlines()) == len(LATENT - {"loss"}) + 5


def test_a_defect_keeps_its_traceback_where_one_picture_is_asked_for(run, monkeypatch):
    monkeypatch.setattr(sample.PICTURES["real"], "draw", lambda run: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sample.main([str(run("vae")), "--what", "real"])


NAMES = [r"$\frac$", "$x", r"\$", "\udcff", "\x1b[2J", "a\tb", "_{", "^", "8", "9"]
SHOWN = [r"$\frac$", "$x", r"\$", r"\udcff", r"\x1b[2J", r"a\tb", "_{", "^", "8", "9"]


def test_names_of_classes_are_drawn_literally(copy, drawn):
    folder = copy("cvae", classes=NAMES)
    assert sample.main([str(folder), "--what", "class"]) == 0
    assert drawn["texts"] == SHOWN


def test_the_name_of_a_run_is_drawn_literally(copy):
    folder = copy("vae")
    named = folder.rename(folder.with_name("$\\frac$ \x1b[2J \udcff"))
    assert sample.main([str(named)]) == 0
    assert sample.main([str(named), str(named), "--what", "curves"]) == 0


HOSTILE = {
    "image.origin": "lower",
    "text.usetex": True,
    "text.parse_math": True,
    "axes.formatter.use_mathtext": True,
    "figure.autolayout": True,
}


@pytest.mark.parametrize("what", ["class", "curves", "interpolate"])
def test_pictures_are_the_same_whatever_the_matplotlibrc_says(what, run, tmp_path):
    pixels = []
    for rc in ({}, HOSTILE):
        with plt.rc_context(rc):
            argv = [str(run("cvae")), "--what", what, "--out", str(tmp_path / "a.png")]
            assert sample.main(argv) == 0
        pixels.append(data.read_picture(tmp_path / "a.png", None))
    assert np.array_equal(*pixels)


# -----------------------------------------------------------------------------------------------------------
# Flags that do nothing, and outputs


@pytest.mark.parametrize("model, argv, flags", [
    ("vae", "--what real --scale 3 --truncate 1", ["--scale", "--truncate"]),
    ("vae", "--what interpolate --scale 0 --truncate 1", ["--truncate"]),
    ("vae", "--what interpolate --standard-normal --scale 0 --truncate 1", []),
    ("vae", "--what reconstruct --standard-normal", ["--standard-normal"]),
    ("gan", "--what interpolate --classes 1,2", ["--classes"]),
    ("vae", "--what interpolate --classes 1,2,3", ["--classes"]),
    ("vae", "--what reconstruct --split train --rows 2", ["--split", "--rows"]),
    ("vae", "--what curves -n 3 --seed 1", ["-n", "--seed"]),
    ("vae", "--what constant --classes 1", ["--classes"]),
    ("vae", "--what prior --data-dir somewhere", ["--data-dir"]),
    ("vae", "--query 1+1", ["--query"]),
    ("cvae", "--what class --classes 1,2 -n 2 --scale 0.5 --truncate 1 --seed 2", []),
    ("gan", "--what interpolate --scale 0 --seed 2 -n 3 --rows 2", []),
    ("image2text", "--what errors -n 2 --rows 1 --split valid --seed 3", []),
])  # fmt: skip
def test_flags_that_do_nothing_are_noted(model, argv, flags, run, capsys):
    folder = run(model)
    capsys.readouterr()
    assert sample.main([str(folder), *argv.split()]) == 0
    notes = capsys.readouterr().err.splitlines()
    assert sorted(note.split()[1] for note in notes) == sorted(flags)
    assert all("does nothing" in note for note in notes)


def test_a_folder_is_no_output(run, tmp_path, refused):
    error = refused(sample.main, [run("vae"), "--what", "prior", "--out", tmp_path])
    assert str(tmp_path) in error and "tmp." not in error


@pytest.mark.parametrize("ending", ["txt", "pgf", "npz"])
def test_an_output_that_is_no_picture_is_refused(ending, run, tmp_path, refused):
    argv = [run("vae"), "--what", "prior", "--out", tmp_path / f"a.{ending}"]
    assert "no picture format" in refused(sample.main, argv)


@pytest.mark.parametrize("name, start", [
    ("a.pdf", b"%PDF"),
    ("a.PNG", b"\x89PNG"),
    ("a", b"\x89PNG"),
    ("a.jpg", b"\xff\xd8"),
    ("a.svg", b"<?xml"),
])  # fmt: skip
def test_an_output_has_the_format_of_its_ending(name, start, run, tmp_path):
    assert sample.main([str(run("vae")), "--what", "prior", "-n", "2", "--out", str(tmp_path / name)]) == 0
    assert (tmp_path / name).read_bytes().startswith(start)


def test_a_picture_of_the_data_is_no_output(copy, tmp_path, refused, monkeypatch):
    folder = copy("vae")
    snapshot = folder / "epochs" / "0000.png"
    photo = tmp_path / "photos" / "a" / "0.png"
    photo.parent.mkdir(parents=True)
    shutil.copy(snapshot, photo)
    change_config(folder, flags=dict(data=str(tmp_path / "photos")))
    for path in (photo, snapshot):
        before = path.read_bytes()
        assert "reads" in refused(sample.main, [folder, "--what", "prior", "--out", path])
        assert path.read_bytes() == before
    monkeypatch.setattr(data, "BUILT_IN", photo.parent.parent)
    change_config(folder, flags=dict(data="butterflies1k"))
    assert "reads" in refused(sample.main, [folder, "--what", "prior", "--out", photo])
    new = photo.parent / "1.png"  # which would be a training picture of the next run
    assert "reads" in refused(sample.main, [folder, "--what", "prior", "--out", new])


@pytest.mark.parametrize("change", [lambda array: array[:20], lambda array: array[::-1]])
def test_runs_of_other_pictures_are_not_compared(change, run, copy, digits, tmp_path, refused):
    other = save_changed(digits, tmp_path / "other.npz", x_test=change, y_test=change)
    folder = copy("ae", flags=dict(data=other))
    assert "other test images" in refused(sample.main, [run("vae"), folder, "--what", "reconstruct"])


def test_a_grid_that_no_picture_can_hold_is_refused():
    with pytest.raises(data.Mistake, match="too many"):
        sample.image_grid(torch.zeros(1000, 1, 1, 4, 4), "title")


def test_a_closed_stdout_costs_no_picture(copy, monkeypatch):
    folder = copy("vae")
    (folder / "loss.png").unlink()
    monkeypatch.setattr(sys, "stdout", None)
    assert sample.main([str(folder), "--what", "curves"]) == 0 and (folder / "loss.png").exists()


@pytest.mark.parametrize("what, original", [("reconstruct", -2), ("untrained", -3)])
def test_what_is_shown_is_what_was_encoded(what, original, run, drawn):
    """With dynamic binarization, a second batch of the same images would be another one."""
    folder = run("vae", "--binarize", "stochastic")
    assert sample.main([str(folder), "--what", what, "-n", "4"]) == 0
    rows = as_tensor(drawn["images"]).unflatten(0, (-1, 4))
    with torch.inference_mode():
        reconstructed = models.load(folder / "best.pt").reconstruct(rows[original])
    assert torch.allclose(reconstructed, rows[-1], atol=1e-6)
