"""The page of `--what play`: what it computes, and how it answers to a mouse, a keyboard and a small window.

A Chromium is driven by the Chrome DevTools Protocol, over two pipes.
"""

import json
import math
import os
import re
import select
import shutil
import subprocess
import time

import pytest
import torch
import torch.nn as nn

import data
import models
import sample

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
FLAGS += " --disable-component-update --remote-debugging-pipe --hide-scrollbars"
HOSTILE = ["</script><script>hacked=1</script>", '<img src=x onerror="hacked=1">', "tab\there"]
FRAME = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
KEYS = {"Tab": 9, "Enter": 13, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


class Browser:
    """A Chromium with one tab."""

    def __init__(self, folder):
        from_test, self.write_end = os.pipe()
        self.read_end, to_test = os.pipe()
        pipes = f'exec "$0" "$@" 3<&{from_test} 4>&{to_test}'  # it reads 3 and writes 4
        command = ["bash", "-c", pipes, CHROMIUM, *FLAGS.split(), f"--user-data-dir={folder}"]
        quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.process = subprocess.Popen(command, pass_fds=(from_test, to_test), **quiet)
        os.close(from_test)
        os.close(to_test)
        self.received = b""
        self.n_calls = 0
        self.events = []
        self.pressed = False  # the button of the mouse
        self.session = {}
        tab = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        self.session = {"sessionId": session}
        for domain in ("Page", "Network", "Runtime", "Accessibility"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        self.n_calls += 1
        message = {"id": self.n_calls, "method": method, "params": params, **self.session}
        os.write(self.write_end, json.dumps(message).encode() + b"\0")
        while (answer := self.receive()).get("id") != self.n_calls:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def receive(self):
        while b"\0" not in self.received:
            assert select.select([self.read_end], [], [], 60)[0], "Chromium does not answer"
            part = os.read(self.read_end, 1 << 20)
            assert part, "Chromium has ended"
            self.received += part
        message, self.received = self.received.split(b"\0", 1)
        return json.loads(message)

    def open(self, path, width=1200, height=860):
        size = dict(width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.events = []
        self.call("Page.navigate", url=path.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.receive())
        self.run(f"(async () => {{ await {FRAME}; }})()")

    def run(self, script):
        """The value of an expression in the page, as JSON has it."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def settle(self):
        """Waits until all that has changed is drawn."""
        self.run(f"(async () => {{ do await {FRAME}; while (queued && !walk); }})()")

    def box(self, element):
        """Left, top, width and height of an element in the window."""
        box = self.run(f"{element}.getBoundingClientRect().toJSON()")
        return [box[key] for key in ("x", "y", "width", "height")]

    def mouse(self, kind, x, y):
        self.pressed = kind != "Released" and (self.pressed or kind == "Pressed")
        held = self.pressed or kind == "Released"
        button = dict(button="left" if held else "none", buttons=int(self.pressed))
        button["clickCount"] = int(kind != "Moved")
        self.call("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, **button)

    def click(self, element):
        """Clicks in the middle of an element, given as an expression."""
        self.run(f"{element}.scrollIntoView({{ block: 'nearest' }})")
        x, y, width, height = self.box(element)
        x += width / 2
        y += height / 2
        self.mouse("Pressed", x, y)
        self.mouse("Released", x, y)
        self.settle()

    def press(self, key):
        press = dict(key=key, windowsVirtualKeyCode=KEYS[key])
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **press, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **press)
        self.settle()

    def close(self):
        self.process.terminate()
        self.process.wait(30)
        os.close(self.read_end)
        os.close(self.write_end)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def randomize(layer):
    """Weights with which random latents make images of high contrast, all different."""
    if isinstance(layer, nn.Linear | nn.ConvTranspose2d):
        models.he_normal_(layer)
        if layer.bias is not None:
            nn.init.normal_(layer.bias, std=0.3)
    if isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.running_mean, std=0.5)
        nn.init.uniform_(layer.running_var, 0.5, 3)
        nn.init.uniform_(layer.weight, 0.5, 1.5)
        nn.init.normal_(layer.bias, std=0.3)
    if isinstance(layer, nn.RNNBase):
        for weight in layer.parameters():
            nn.init.normal_(weight, std=0.25)


@pytest.fixture
def play(tmp_path):
    """play(kind, shape, classes, **arguments): the run of a random model of that kind, and its page."""

    def make(kind, shape=(1, 28, 28), classes="0123456789", **arguments):
        torch.manual_seed(0)
        facts = dict(n_classes=len(classes)) if kind == "cvae" else {}
        facts |= dict(n_train=50, n_test=50) if kind in ("ad", "vad") else {}
        model = models.build(kind, image_shape=shape, **facts, **arguments).apply(randomize).eval()
        config = {"flags": {"model": kind, "data": "mnist10k"}, "classes": [*classes], "image_shape": shape}
        (tmp_path / "config.json").write_text(json.dumps(config | {"units": {"loss": ""}, "threads": 1}))
        split = data.Split(torch.randint(256, (50, *shape)).byte(), torch.arange(50) % len(classes))
        dataset = data.Dataset("noise", [*classes], split, split, split)
        run = sample.Run(tmp_path, model=model, dataset=dataset)
        return run, sample.draw("play", [run])

    return make


def decoded(browser, z, labels):
    """What the page decodes, [n, pixels]."""
    calls = json.dumps([z.tolist(), labels.tolist()])
    return torch.tensor(browser.run(f"(([z, y]) => z.map((z, k) => [...decode(z, y[k])]))({calls})"))


def worst_pixel(browser, run, n=10):
    """The largest difference of the page's pixels to `decode`, of n latents, times 255."""
    z = torch.randn(n, run.model.latent_dim)
    labels = torch.arange(n) % len(run.classes)
    with torch.inference_mode():
        expected = run.model.decode(z, labels).flatten(1)
    assert expected.std(0).mean() > 0.1  # the latents make a difference
    return 255 * (decoded(browser, z, labels).clamp(0, 1) - expected).abs().max().item()


COLOR = (3, 64, 64)
WIDE = "1024,4,2,1 32,3,2,1"


@pytest.mark.parametrize("kind, arguments", [
    ("cvae", {}),  # that of the demo
    ("cvae", dict(shape=COLOR, label="add", dense=0)),
    ("vae", dict(shape=COLOR)),
    ("vae", dict(decoder="gru", decoder_depth=2)),
    ("vae", dict(decoder="lstm", decoder_depth=2, decoder_inputs=20, shape=(3, 24, 30))),
    ("vae", dict(decoder="lstm", decoder_readout=False, decoder_hidden=28, likelihood="gaussian")),
    ("vae", dict(encoder_layers=WIDE, shape=(3, 15, 20))),  # WideConvTranspose2d
    ("vae", dict(decoder_norm=True, dense=32, shape=(1, 20, 28))),
    ("ae", dict(decoder="mlp", decoder_depth=2)),
    ("ad", {}),
    ("vad", dict(shape=COLOR, prior="exponential")),
    ("vad", dict(prior="uniform")),
    ("gan", {}),
    ("gan", dict(shape=COLOR)),
])  # fmt: skip
def test_the_page_decodes_as_the_model_does(kind, arguments, play, browser):
    run, path = play(kind, **arguments)
    browser.open(path)
    assert worst_pixel(browser, run) < 2


def test_the_page_of_a_trained_run_decodes_as_the_model_does(run, browser, capsys):
    folder = run("cvae")
    capsys.readouterr()
    assert sample.main([str(folder), "--what", "play"]) == 0
    assert capsys.readouterr().out == f"{folder / 'play.html'}\n"
    browser.open(folder / "play.html")
    z = torch.randn(10, 3)
    expected = models.load(folder / "best.pt").decode(z, torch.arange(10)).detach().flatten(1)
    assert (decoded(browser, z, torch.arange(10)) - expected).abs().max() < 2 / 255


def test_the_page_of_the_demo_is_under_3_mb(play):
    assert play("cvae")[1].stat().st_size < 3e6


# What the page shows: pixels of the large picture and values of the sliders
SHOWN = "[...decoded.getContext('2d').getImageData(0, 0, wide, high).data].filter((_, k) => k % 4 !== 3)"


def check_picture(browser, run):
    """The picture is what the model decodes of the latents and the class that the controls show."""
    browser.settle()
    z, label = browser.run("[z, label]")
    sliders = browser.run("sliders.map((slider) => Number(slider.value))")
    limits = browser.run("[least, most]")
    assert sliders == pytest.approx([min(max(value, limits[0]), limits[1]) for value in z], abs=0.06)
    numbers = browser.run("sliders.map((slider) => slider.nextSibling.textContent)")
    assert [float(text.replace("−", "-")) for text in numbers] == pytest.approx(z, abs=0.006)
    expected = run.model.decode(torch.tensor([z]), torch.tensor([label]))[0].detach()
    expected = expected.expand(3, -1, -1).permute(1, 2, 0).flatten()  # a gray channel is red, green and blue
    assert (torch.tensor(browser.run(SHOWN)) - 255 * expected).abs().max() < 2.5
    return z, label


def test_sliders_and_classes_change_the_picture(play, browser):
    run, path = play("cvae", classes=HOSTILE)
    browser.open(path)
    z, label = check_picture(browser, run)
    browser.run("sliders[3].focus()")
    for _ in range(3):
        browser.press("ArrowRight")
    moved, _ = check_picture(browser, run)
    step = browser.run("step")
    assert moved[3] == pytest.approx(z[3] + 3 * step, abs=step) and moved[:3] + moved[4:] == z[:3] + z[4:]
    for k, name in enumerate(("</script><script>hacked=1</script>", HOSTILE[1], "tab\\there")):
        button = f"find('#classes').children[{k}]"
        assert browser.run(f"{button}.textContent") == name
        browser.click(button)
        assert check_picture(browser, run) == (moved, k)
        pressed = browser.run("[...find('#classes').children].map((button) => button.ariaPressed)")
        assert pressed == [str(k == j).lower() for j in range(3)]
    assert browser.run("window.hacked === undefined")
    browser.click("find('#zero')")
    assert check_picture(browser, run) == ([0] * 8, 2)
    browser.click("find('#random')")
    at, _ = check_picture(browser, run)
    assert at in browser.run("data.samples")


def test_a_real_picture_puts_its_latents_and_class_in_place(play, browser):
    run, path = play("cvae")
    browser.open(path)
    browser.click("find('#strip').children[7]")
    z, label = check_picture(browser, run)
    canvas = "find('#strip').children[7].firstChild.getContext('2d').getImageData(0, 0, 28, 28).data"
    pixels = torch.tensor(browser.run(f"[...{canvas}].filter((_, k) => k % 4 === 0)"))
    x, y = run.batch("test", slice(None))
    (row,) = (255 * x.flatten(1)).round().eq(pixels).all(1).nonzero()
    assert label == y[row] and z == pytest.approx(run.model.encode(x[row], y[row])[0].tolist(), abs=1e-3)
    assert browser.run("find('#strip').children[7].ariaPressed") == "true"
    labels = browser.run("data.labels")
    assert len(labels) > 10 and labels == sorted(labels) and set(labels) == {*range(10)}
    browser.click("find('#classes').children[0]")
    assert browser.run("find('#strip [aria-pressed=true]')") is None


def test_latents_are_sorted_by_kl_and_inactive_ones_folded_away(play, browser):
    run, path = play("vae", latent_dim=6)
    with torch.no_grad():  # q(z | x) of latents 1 and 4 is the prior, that of the others the wider the later
        run.model.to_latent.weight.zero_()
        run.model.to_latent.bias.copy_(torch.tensor([0.0] * 6 + [0.5, 0, 1, 1.5, 0, 2]))
    browser.open(sample.draw("play", [run]))
    labels = "(name) => [...document.querySelectorAll(name)].map((label) => label.textContent)"
    rows = browser.run(f"({labels})('#latents div label')")
    kl = [(math.exp(value) - 1 - value) / 2 for value in (2, 1.5, 1, 0.5)]
    assert [row[:2] for row in rows] == ["z5", "z3", "z2", "z0"]
    assert [float(row.partition("KL ")[2]) for row in rows] == pytest.approx(kl, abs=0.006)
    assert [row[:2] for row in browser.run(f"({labels})('#latents details label')")] == ["z1", "z4"]
    assert browser.run("find('#latents details').open") is False
    browser.click("find('#latents summary')")
    assert browser.run("sliders[4].checkVisibility()")


def test_kl_of_a_variational_auto_decoder_is_that_of_its_learned_latents(play, browser):
    run, path = play("vad", latent_dim=4)
    mean, log_variance = run.model.latents.weight.detach().chunk(2, 1)
    kl = (mean.square() + log_variance.exp() - 1 - log_variance).mean(0) / 2
    browser.open(path)
    assert browser.run("kl") == pytest.approx(kl.tolist(), rel=1e-5)
    assert browser.run("order") == kl.argsort(descending=True).tolist()


def test_an_auto_decoder_walks_between_its_latents(play, browser):
    run, path = play("ad", latent_dim=3)
    browser.open(path)
    samples = torch.tensor(browser.run("data.samples"))
    distances = (samples[:, None] - run.model.latents.weight.detach()).abs().amax(2)  # (sample, row)
    assert sorted(distances.argmin(1).tolist()) == [*range(50)] and distances.amin(1).max() < 0.0006


def test_dragging_across_the_plane_moves_two_latents(play, browser):
    run, path = play("vae", latent_dim=4)
    browser.open(path)
    browser.run("plane.scrollIntoView()")
    x, y, width, height = browser.box("plane")
    least, most = browser.run("[least, most]")
    before, _ = check_picture(browser, run)
    right, up = browser.run("axes")
    browser.mouse("Pressed", x + 0.5 * width, y + 0.5 * height)
    browser.mouse("Moved", x + 0.75 * width, y + 0.25 * height)
    browser.mouse("Released", x + 0.75 * width, y + 0.25 * height)
    browser.mouse("Moved", x + 5, y + 5)
    browser.settle()
    z, _ = check_picture(browser, run)
    before[right] = before[up] = pytest.approx(least + 0.75 * (most - least), abs=0.05)
    assert z == before
    left, top, *sides = browser.box("find('#ring')")
    assert [left + sides[0] / 2, top + sides[1] / 2] == pytest.approx(
        [x + 0.75 * width, y + 0.25 * height], abs=3
    )
    browser.run("plane.focus()")
    for key in ("ArrowLeft", "ArrowLeft", "ArrowDown"):
        browser.press(key)
    after, _ = check_picture(browser, run)
    step = browser.run("step")
    assert after[right] == pytest.approx(z[right] - 2 * step) and after[up] == pytest.approx(z[up] - step)
    # tile (row 2, column 8) of the 11 x 11 is what the model decodes there
    z[right] = least + (most - least) * 8.5 / 11
    z[up] = most - (most - least) * 2.5 / 11
    tile = torch.tensor(
        browser.run(
            "[...pen.getImageData(8 * wide, 2 * high, wide, high).data].filter((_, k) => k % 4 === 0)"
        )
    )
    expected = 255 * run.model.decode(torch.tensor([z])).detach().flatten()
    assert (tile - expected).abs().max() < 2.5


def test_only_a_drag_that_starts_in_the_plane_with_the_left_button_moves_the_ring(play, browser):
    _, path = play("vae", latent_dim=4)
    browser.open(path)
    before = browser.run("z")
    x, y, width, height = browser.box("plane")
    for start in ("find('#manifold h2')", "find('#latents h2')"):
        left, top, *_ = browser.box(start)
        browser.mouse("Pressed", left + 5, top + 5)
        browser.mouse("Moved", x + width / 4, y + height / 4)
        browser.mouse("Released", x + width / 4, y + height / 4)
    right = dict(x=x + width / 4, y=y + height / 4, button="right", clickCount=1)
    browser.call("Input.dispatchMouseEvent", type="mousePressed", buttons=2, **right)
    browser.call("Input.dispatchMouseEvent", type="mouseReleased", buttons=0, **right)
    browser.settle()
    assert browser.run("z") == before
    browser.run("getSelection().selectAllChildren(document.body)")  # a selection is not dragged away
    browser.mouse("Pressed", x + width / 2, y + height / 2)
    for share in (0.4, 0.3, 0.25):
        browser.mouse("Moved", x + share * width, y + share * height)
    browser.mouse("Released", x + width / 4, y + height / 4)
    browser.settle()
    least, most = browser.run("[least, most]")
    assert browser.run("z[axes[0]]") == pytest.approx(least + (most - least) / 4, abs=0.05)


def test_the_sliders_reach_the_latents_of_an_auto_decoder_however_small(play, browser):
    run, _ = play("ad", latent_dim=3)
    with torch.no_grad():
        run.model.latents.weight.uniform_(-0.2, -0.1)
    browser.open(sample.draw("play", [run]))
    least, most = browser.run("[least, most]")
    assert least <= -0.2 and most >= -0.1
    check_picture(browser, run)


def test_weights_beyond_16_bits_are_refused(play):
    run, _ = play("vae")
    with torch.no_grad():
        next(run.model.decoder.parameters())[0] = 7e4
    with pytest.raises(data.Mistake, match="weights above 65504"):
        sample.draw("play", [run])


def test_the_two_latents_of_the_plane_are_chosen_and_never_the_same(play, browser):
    _, path = play("vae", latent_dim=4)
    browser.open(path)
    first, second = browser.run("axes")
    browser.run(f"selects[0].value = {second}, selects[0].onchange()")
    browser.settle()
    assert browser.run("[axes, selects.map((select) => Number(select.value))]") == [[second, first]] * 2


def test_a_walk_leads_from_sample_to_sample_until_it_is_stopped(play, browser):
    run, path = play("vad", latent_dim=3)
    browser.open(path)
    start, _ = check_picture(browser, run)
    browser.click("find('#walk')")
    seen = []
    for _ in range(4):
        time.sleep(0.2)
        seen.append(browser.run("[z, walk.from, walk.to]"))
    for z, a, b in seen:
        assert a == start and b in browser.run("data.samples")
        t = (z[0] - a[0]) / (b[0] - a[0])
        assert 0 < t <= 1 and z == pytest.approx([(1 - t) * p + t * q for p, q in zip(a, b, strict=True)])
    assert browser.run("find('#walk').ariaPressed") == "true"
    browser.click("find('#walk')")
    z, _ = check_picture(browser, run)
    assert z != start and browser.run("[z, find('#walk').ariaPressed]") == [z, "false"]


def test_all_can_be_done_from_the_keyboard_and_has_a_name(play, browser):
    run, path = play("cvae", latent_dim=4)
    browser.open(path)
    focused = []
    for _ in range(100):
        browser.press("Tab")
        if browser.run("document.activeElement === document.body"):
            break
        focused.append(browser.run("document.activeElement.tagName + document.activeElement.type"))
        if focused[-1] == "BUTTONsubmit" and len(focused) == 3:
            browser.press("Enter")
            assert check_picture(browser, run)[0] == [0] * 4
    counts = {name: focused.count(name) for name in set(focused)}
    expected = {"BUTTONsubmit": 3 + 10 + 17, "INPUTrange": 4, "CANVASundefined": 1, "SELECTselect-one": 2}
    assert counts == expected
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    names = [
        (node["role"]["value"], node["name"]["value"])
        for node in nodes
        if node["role"]["value"] in ("slider", "button", "combobox", "application", "image", "group")
    ]
    assert all(name for _, name in names), names
    assert {("slider", f"z{k}") for k in range(4)} < set(names)


def contrast(one, other):
    """Of two colors "rgb(r, g, b)", as WCAG 2.2 defines it."""

    def luminance(color):
        channels = [int(number) / 255 for number in re.findall(r"\d+", color)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, lighter = sorted([luminance(one), luminance(other)])
    return (lighter + 0.05) / (darker + 0.05)


def test_every_text_has_the_contrast_that_wcag_asks_for(play, browser):
    _, path = play("cvae")
    browser.open(path)
    pairs = browser.run("""[...document.querySelectorAll("body *")]
        .filter((element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
        .filter((element) => element.checkVisibility()).map((element) => {
          const background = (node) => getComputedStyle(node).backgroundColor;
          let behind = element;
          while (behind !== document.body && background(behind) === "rgba(0, 0, 0, 0)")
            behind = behind.parentElement;
          const paper = behind === document.body ? "rgb(255, 255, 255)" : background(behind);
          return [getComputedStyle(element).color, paper];
        })""")
    assert len(pairs) > 30 and min(contrast(*pair) for pair in pairs) >= 4.5


@pytest.mark.parametrize("width", [320, 400, 700, 1000])
@pytest.mark.parametrize(
    "kind, arguments",
    [("cvae", dict(classes=[f"class {'W' * 30} {k}" for k in range(30)])), ("gan", dict(shape=COLOR))],
)
def test_the_page_fits_into_a_narrow_window(width, kind, arguments, play, browser):
    _, path = play(kind, **arguments)
    browser.open(path, width=width, height=640)
    assert browser.run("document.documentElement.scrollWidth") <= width
    outside = browser.run("""[...document.querySelectorAll("button, input, select, canvas, label")]
        .filter((element) => element.checkVisibility()).map((element) => element.getBoundingClientRect())
        .filter(({ left, right }) => left < 0 || right > innerWidth).length""")
    assert outside == 0
    if width < 620:  # the picture stays in view beside the last slider
        last = "sliders[order[nShown - 1]]"
        browser.run(f"{last}.scrollIntoView({{ block: 'center' }})")
        _, top, _, height = browser.box("find('#left')")
        assert 0 <= top < top + height < browser.box(last)[1] < 640


def test_the_sliders_can_be_seen_in_a_window_that_is_narrow_and_low(play, browser):
    _, path = play("cvae", classes=[f"class {'W' * 30} {k}" for k in range(30)])
    browser.open(path, width=320, height=256)  # 1280 x 1024 at a zoom of 400%
    last = "sliders[order[nShown - 1]]"
    browser.run(f"{last}.scrollIntoView({{ block: 'center' }})")
    x, y, width, height = browser.box(last)
    assert browser.run(f"document.elementFromPoint({x + width / 2}, {y + height / 2}) === {last}")


def test_no_request_leaves_the_page(play, browser):
    _, path = play("cvae", classes=HOSTILE)
    browser.open(path)
    for element in (
        "find('#random')",
        "find('#walk')",
        "find('#strip').children[1]",
        "find('#classes').children[1]",
    ):
        browser.click(element)
    addresses = [
        event["params"]["request"]["url"]
        for event in browser.events
        if event.get("method") == "Network.requestWillBeSent"
    ]
    assert addresses == [path.as_uri()]
    refusal = "fetch('https://example.org/').then(() => 'sent', (error) => String(error))"
    assert "Failed to fetch" in browser.run(refusal)
    policy = browser.run("find('meta[http-equiv=Content-Security-Policy]').content")
    assert policy.startswith("default-src 'none'") and "http" not in policy


def test_a_model_with_one_latent_or_without_an_encoder_shows_what_it_has(play, browser):
    run, path = play("gan", latent_dim=1)
    browser.open(path)
    check_picture(browser, run)
    visible = "['#latents', '#manifold', '#real', '#classes'].map((name) => find(name).checkVisibility())"
    assert browser.run(visible) == [True, False, False, False]
    run, path = play("gan", latent_dim=30)
    browser.open(path)
    assert browser.run(visible) == [True, True, False, False]
    assert browser.run("find('#latents summary').textContent") == "20 more"


def test_a_layer_that_the_page_lacks_is_one_line(play, run, tmp_path, refused, monkeypatch):
    changed, _ = play("vae")
    changed.model.decoder.stack[2] = nn.GELU()
    with pytest.raises(data.Mistake, match="cannot compute a GELU"):
        sample.draw("play", [changed])
    monkeypatch.setattr(sample, "PLAY_LAYERS", [name for name in sample.PLAY_LAYERS if name != "ReLU"])
    assert "vae: the page of --what play cannot compute a ReLU" in refused(
        sample.main, [run("vae"), "--what", "play"]
    )


def test_the_page_is_written_as_html_and_never_over_its_template(run, refused, tmp_path):
    argv = [run("gan"), "--what", "play", "--out"]
    assert "png is no picture format here: html" in refused(sample.main, [*argv, tmp_path / "a.png"])
    assert "reads" in refused(sample.main, [*argv, sample.PLAY_TEMPLATE])
    assert sample.main([*map(str, argv), str(tmp_path / "new" / "a.html"), "--seed", "1"]) == 0
    assert (tmp_path / "new" / "a.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert sample.main([*map(str, argv), str(tmp_path / "page")]) == 0
    assert (tmp_path / "page").read_text(encoding="utf-8").startswith("<!doctype html>")
