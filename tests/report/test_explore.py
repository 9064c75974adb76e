"""The latent explorer: its directions, and faces drawn by a browser as by PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from facegan.errors import ExportError, WebPackageError
from facegan.files import sha256_file
from facegan.nets import Generator, NetSpec, load_generator
from facegan.report.explorer import FACES, SAMPLES, main_directions, write_explorer
from facegan.report.runs import read_run
from facegan.sample.directions import DIRECTIONS, Directions
from facegan.sample.generate import to_uint8
from facegan.sample.latents import sample_latents
from facegan.web import known_packages, web_files
from tests.report.conftest import SLIDE, watching
from tests.training.toy import ToyAttributes, ToyFaces, toy_train

MOST_LEVELS = 2  # of 255


class Linear(Generator):
    """Z = 6 → images by one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = NetSpec(name="linear", size=4, channels=1, latent=6)
        self.first = nn.Linear(6, 16, bias=False)
        with torch.no_grad():
            scales = torch.tensor([5.0, 3, 2, 1, 0.5, 0.1])
            basis = torch.linalg.qr(torch.randn(16, 6, generator=torch.Generator().manual_seed(1)))[0]
            self.first.weight.copy_(basis * scales)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.first(latents).unflatten(1, (1, 4, 4))


def test_directions_equal_regression_of_components() -> None:
    generator = Linear().eval()
    latents = sample_latents(SAMPLES, 6, 0).double().numpy()
    activations = latents @ generator.first.weight.detach().double().numpy().T
    activations -= activations.mean(axis=0)
    _, values, axes = np.linalg.svd(activations, full_matrices=False)
    coordinates = activations @ axes.T[:, :3] / (values[:3] / np.sqrt(SAMPLES))
    steps = np.linalg.lstsq(coordinates, latents, rcond=None)[0]
    found, shares = main_directions(generator, 3)
    np.testing.assert_allclose(np.abs(found.numpy()), np.abs(steps), atol=1e-4)
    np.testing.assert_allclose(shares, (values**2 / (values**2).sum())[:3], atol=1e-5)
    assert torch.equal(main_directions(generator, 3)[0], found)


def test_directions_need_an_observable_layer() -> None:
    class Bare(Linear):
        def forward(self, latents: torch.Tensor) -> torch.Tensor:
            return (latents @ self.first.weight.T).unflatten(1, (1, 4, 4))

    with pytest.raises(ExportError, match="no layer with observable activations"):
        main_directions(Bare().eval())


@pytest.fixture(scope="module")
def runtime() -> None:
    try:
        web_files(known_packages()["onnxruntime-web"])
    except WebPackageError as error:
        pytest.skip(f"no runtime: {error}")


@pytest.fixture(scope="module", params=["colours", pytest.param("grey", marks=pytest.mark.slow), "conditional"])
def explored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, runtime: None) -> Path:
    """A run with an explorer: a DCGAN with normal latents, a grey MLP with uniform ones, or a conditional DCGAN."""
    run = tmp_path_factory.mktemp("explored") / request.param
    if request.param == "colours":
        toy_train(run, images=32)
    elif request.param == "conditional":
        toy_train(run, images=32, condition="Red,Light", faces=ToyAttributes())
        sha256 = sha256_file(run / "generator.safetensors")
        Directions(("Smile <b>",), torch.eye(16)[:1], torch.eye(1) / 8, sha256).write(run / DIRECTIONS)
    else:
        faces = ToyFaces()
        faces.channels, faces.images = 1, faces.images[:, :1]
        toy_train(run, faces=faces, nets="mlp", norm="none", latent_distribution="uniform", images=32)
    write_explorer(read_run(run), run / "explorer")
    return run


DRAWN = """canvas => {
  // A copy: the browser warns when the page's own canvas is read often.
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  return [canvas.width, [...copy.getImageData(0, 0, canvas.width, canvas.height).data]];
}"""


def assert_drawn(page: Any, run: Path, latent: Any, selector: str = "#face") -> None:
    """The canvas shows what PyTorch draws."""
    width, data = page.eval_on_selector(selector, DRAWN)
    inputs = [*latent, *json.loads(page.get_attribute("#face", "data-condition") or "[]")]
    with torch.inference_mode():
        image = to_uint8(load_generator(run)(torch.tensor(inputs, dtype=torch.float32)[None]))[0]
    expected = image.expand(3, -1, -1).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(np.array(data).reshape(width, width, 4)[..., :3] - expected).max() <= MOST_LEVELS


def settled(page: Any, selector: str, value: float | None = None) -> list[float]:
    """The latent of the large face after a click on a button, or a new value of a slider, is drawn."""
    before = page.get_attribute("#face", "data-drawn")
    page.eval_on_selector(selector, "button => button.click()" if value is None else SLIDE, value)
    page.wait_for_selector(f"#face[data-drawn]:not([data-drawn={json.dumps(before)}])")
    return json.loads(page.get_attribute("#face", "data-drawn"))


def test_browser_draws_what_pytorch_draws(chromium: Any, explored: Path) -> None:
    generator = load_generator(explored)
    distribution, latent = generator.spec.distribution, generator.spec.latent
    faces = sample_latents(FACES, latent, 0, distribution=distribution).numpy()
    steps, _ = main_directions(generator)
    with watching(chromium) as watched:
        page = watched.open(explored / "explorer/index.html")
        page.wait_for_selector("[data-ready]")
        for number in (0, 5, FACES - 1):
            assert_drawn(page, explored, faces[number], f"[data-face='{number}'] canvas")

        first = settled(page, "[data-face='3']")
        np.testing.assert_allclose(first, faces[3], atol=1e-6)
        assert_drawn(page, explored, faces[3])

        named = int((explored / DIRECTIONS).is_file())
        moved = settled(page, f"[data-direction='{named + 1}']", 2)
        wanted = faces[3] + 2 * steps[1].numpy()
        wanted = wanted.clip(-1, 1) if distribution == "uniform" else wanted
        np.testing.assert_allclose(moved, wanted, atol=1e-5)
        assert_drawn(page, explored, moved)
        np.testing.assert_allclose(settled(page, "#reset"), faces[3], atol=1e-6)
        if named:
            assert page.get_by_text("Smile <b>").locator("small").text_content() == "+12 %"
            moved = settled(page, "[aria-label='Smile <b>']", 1.5)
            np.testing.assert_allclose(moved, faces[3] + 1.5 * np.eye(16)[0], atol=1e-5)
            settled(page, "#reset")

        settled(page, "[data-face='7']")
        half = np.array(settled(page, "#between", 0.5))
        if distribution == "uniform":
            np.testing.assert_allclose(half, (faces[3] + faces[7]) / 2, atol=1e-6)
        else:  # on the arc, as far from one as from the other
            angles = [half @ end / np.linalg.norm(half) / np.linalg.norm(end) for end in (faces[3], faces[7])]
            plane = np.linalg.lstsq(faces[[3, 7]].T, half, rcond=None)
            assert float(plane[1][0]) < 1e-9
            assert plane[0][0] == pytest.approx(plane[0][1], abs=1e-6)
            assert min(angles) > 0.6
        assert_drawn(page, explored, half)

        dice = settled(page, "#dice")
        assert len(dice) == latent
        assert distribution != "uniform" or max(map(abs, dice)) <= 1
        assert_drawn(page, explored, dice)

        if generator.spec.condition:
            usual = list(generator.spec.condition.usual.values())
            assert json.loads(page.get_attribute("#face", "data-condition")) == usual
            page.get_by_role("checkbox", name="Light", exact=True).click()
            page.wait_for_selector(f"#face[data-condition='[{usual[0]},{-usual[1]}]']")
            assert_drawn(page, explored, dice)
            assert_drawn(page, explored, faces[5], "[data-face='5'] canvas")
            assert page.get_by_text("Rows: with Red, without Red, with Light, without Light.").is_visible()
    assert {url.partition(":")[0] for url in watched.requests} <= {"file", "data", "blob"}


@pytest.mark.parametrize("explored", ["colours"], indirect=True)
def test_missing_script_is_named(chromium: Any, explored: Path, tmp_path: Path) -> None:
    index = tmp_path / "index.html"
    index.write_bytes((explored / "explorer/index.html").read_bytes())
    with watching(chromium) as watched:
        page = watched.open(index)
        page.get_by_text("explorer/runtime.js cannot be read: it must be beside this page").wait_for()
        watched.complaints.clear()  # the browser's own line about the file
