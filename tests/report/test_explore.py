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
from facegan.nets import Generator, NetSpec, load_generator
from facegan.report.explorer import FACES, SAMPLES, main_directions, write_explorer
from facegan.report.runs import read_run
from facegan.sample.generate import sample_latents, to_uint8
from facegan.web import known_packages, web_files
from tests.report.conftest import watching
from tests.training.toy import ToyFaces, toy_train

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


class Grey(ToyFaces):
    channels = 1

    def __init__(self) -> None:
        super().__init__()
        self.images = self.images[:, :1]


@pytest.fixture(scope="module", params=["colours", "grey"])
def explored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, runtime: None) -> Path:
    """A run with an explorer: a DCGAN with normal latents, or a grey MLP with uniform ones."""
    run = tmp_path_factory.mktemp("explored") / request.param
    if request.param == "colours":
        toy_train(run, images=96)
    else:
        toy_train(run, faces=Grey(), nets="mlp", norm="none", latent_distribution="uniform", images=96)
    write_explorer(read_run(run), run / "explorer")
    return run


def drawn(page: Any, selector: str) -> np.ndarray:
    """The pixels of a canvas, (H, W, 3)."""
    width, data = page.eval_on_selector(
        selector,
        """canvas => {
          // A copy: the browser warns when the page's own canvas is read often.
          const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
          copy.drawImage(canvas, 0, 0);
          return [canvas.width, [...copy.getImageData(0, 0, canvas.width, canvas.height).data]];
        }""",
    )
    return np.array(data).reshape(width, width, 4)[..., :3]


def by_torch(run: Path, latent: Any) -> np.ndarray:
    with torch.inference_mode():
        image = to_uint8(load_generator(run)(torch.as_tensor(latent, dtype=torch.float32)[None]))[0]
    return image.expand(3, -1, -1).permute(1, 2, 0).numpy().astype(int)


def settled(page: Any, change: str) -> list[float]:
    """The latent of the large face after the change is drawn."""
    before = page.get_attribute("#face", "data-drawn")
    page.evaluate(change)
    page.wait_for_selector(f"#face[data-drawn]:not([data-drawn={json.dumps(before)}])")
    return json.loads(page.get_attribute("#face", "data-drawn"))


def move(slider: str, value: float) -> str:
    return (
        f"() => {{ const slider = document.querySelector({json.dumps(slider)}); slider.value = {value};"
        " slider.dispatchEvent(new Event('input')); }"
    )


def click(button: str) -> str:
    return f"() => document.querySelector({json.dumps(button)}).click()"


def test_browser_draws_what_pytorch_draws(chromium: Any, explored: Path) -> None:
    generator = load_generator(explored)
    distribution, latent = generator.spec.distribution, generator.spec.latent
    faces = sample_latents(FACES, latent, 0, distribution=distribution).numpy()
    steps, _ = main_directions(generator)
    with watching(chromium) as watched:
        page = watched.open(explored / "explorer/index.html")
        page.wait_for_selector("[data-ready]")
        for number in (0, 5, FACES - 1):
            shown = drawn(page, f"[data-face='{number}'] canvas")
            assert np.abs(shown - by_torch(explored, faces[number])).max() <= MOST_LEVELS

        first = settled(page, click("[data-face='3']"))
        np.testing.assert_allclose(first, faces[3], atol=1e-6)
        assert np.abs(drawn(page, "#face") - by_torch(explored, faces[3])).max() <= MOST_LEVELS

        moved = settled(page, move("[data-direction='1']", 2))
        wanted = faces[3] + 2 * steps[1].numpy()
        wanted = wanted.clip(-1, 1) if distribution == "uniform" else wanted
        np.testing.assert_allclose(moved, wanted, atol=1e-5)
        assert np.abs(drawn(page, "#face") - by_torch(explored, moved)).max() <= MOST_LEVELS
        np.testing.assert_allclose(settled(page, click("#reset")), faces[3], atol=1e-6)

        settled(page, click("[data-face='7']"))
        half = np.array(settled(page, move("#between", 0.5)))
        if distribution == "uniform":
            np.testing.assert_allclose(half, (faces[3] + faces[7]) / 2, atol=1e-6)
        else:  # on the arc, as far from one as from the other
            angles = [half @ end / np.linalg.norm(half) / np.linalg.norm(end) for end in (faces[3], faces[7])]
            plane = np.linalg.lstsq(faces[[3, 7]].T, half, rcond=None)
            assert float(plane[1][0]) < 1e-9
            assert plane[0][0] == pytest.approx(plane[0][1], abs=1e-6)
            assert min(angles) > 0.6
        assert np.abs(drawn(page, "#face") - by_torch(explored, half)).max() <= MOST_LEVELS

        dice = settled(page, click("#dice"))
        assert len(dice) == latent
        assert distribution != "uniform" or max(map(abs, dice)) <= 1
        assert np.abs(drawn(page, "#face") - by_torch(explored, dice)).max() <= MOST_LEVELS
    assert {url.partition(":")[0] for url in watched.requests} <= {"file", "data", "blob"}


def test_missing_script_is_named(chromium: Any, explored: Path, tmp_path: Path) -> None:
    index = tmp_path / "index.html"
    index.write_bytes((explored / "explorer/index.html").read_bytes())
    with watching(chromium) as watched:
        page = watched.open(index)
        page.get_by_text("explorer/runtime.js cannot be read: it must be beside this page").wait_for()
        watched.complaints.clear()  # the browser's own line about the file
