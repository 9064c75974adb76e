"""`facegan project`: photographs' nearest latents, which `facegan sample` draws."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from facegan.config import PrepConfig, ProjectConfig, SampleConfig
from facegan.console import Console
from facegan.errors import DatasetError
from facegan.evaluate.project import cut_photos, project, project_photos
from facegan.nets import Condition, NetSpec, make_generator
from facegan.sample import SampleRequest, write_grid
from facegan.sample.generate import images_of
from facegan.sample.latents import make_latents, sample_inputs
from tests.evaluate.program import BesideTraining
from tests.recipes.program import Ended, facegan

QUICK = ("--starts", 2, "--steps", 3, "--set", "project.held_out=2", "--device", "cpu")
CONDITION = Condition(("Eyeglasses", "Male"), 0, ((-1, -1), (1, 1)), (9, 1))


def projected(run: Path, *arguments: object) -> Ended:
    return facegan("project", run, *arguments, *QUICK)


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_same_photograph_gives_same_bytes(run: Path, faces: Path, portraits: Path, tmp_path: Path) -> None:
    photos = [portraits / "000001.jpg", portraits / "000002.jpg"]
    ended = projected(run, *photos, "--shards", faces, "--out", tmp_path / "a.png", "--json")
    assert ended.code == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert [photo["photo"] for photo in found["photos"]] == [str(photo) for photo in photos]
    assert len(found["real_faces"]) == 2
    assert found["photos"][0]["starts"] == sorted(found["photos"][0]["starts"])
    latents = load_file(found["latents"])["latents"]
    torch.testing.assert_close(latents.norm(dim=1), torch.full((2,), latents.shape[1] ** 0.5))
    again = projected(run, photos[1], "--shards", faces, "--out", tmp_path / "b.png")
    assert "held-out real faces" in again.stdout
    assert torch.equal(load_file(tmp_path / "b-latents.safetensors")["latents"], latents[1:])
    assert np.array_equal(picture(tmp_path / "b.png")[20:84], picture(tmp_path / "a.png")[84:148])
    write_grid(SampleRequest(run, SampleConfig(latents=found["latents"]), "cpu"), tmp_path / "grid.png")
    drawn, shown = picture(tmp_path / "grid.png")[2:34, 2:34], picture(tmp_path / "a.png")[20:84:2, 80:144:2]
    assert np.abs(drawn.astype(int) - shown).max() <= 1


def test_distances_are_of_the_loaded_generator(run: Path, faces: Path, portraits: Path, tmp_path: Path) -> None:
    file, config = (
        Path(shutil.copy(run / "generator.safetensors", tmp_path)),
        ProjectConfig(starts=1, steps=1, held_out=2),
    )
    before, after = (
        project_photos(
            SampleRequest(file, SampleConfig(), "cpu", console=console), [portraits / "000001.jpg"], str(faces), config
        )
        for console in (BesideTraining(file), Console(quiet=True))
    )
    assert before.held_out != after.held_out


def test_drawn_face_is_found_again() -> None:
    generator = make_generator(NetSpec("resnet", 32, 3, latent=8, width=8, norm="none")).eval().requires_grad_(False)
    face, config = images_of(generator, sample_inputs(generator.spec, 1, 5)), ProjectConfig(starts=2, steps=60)
    start = project(generator, generator.spec, face, config.model_copy(update={"steps": 1, "rate": 1e-9}))
    found = project(generator, generator.spec, face, config)
    assert found.distances[0] < 0.01 < 0.5 < start.distances[0]
    assert (found.image.int() - face.int()).abs().double().mean() < 8


def test_condition_is_found_and_kept(tmp_path: Path) -> None:
    spec = NetSpec("dcgan", 32, 1, latent=8, width=4, condition=CONDITION)
    generator = make_generator(spec).eval().requires_grad_(False)
    face = images_of(generator, torch.cat([sample_inputs(replace(spec, condition=None), 1, 3), torch.ones(1, 2)], 1))
    found = project(generator, spec, face, ProjectConfig(starts=4, steps=20))
    assert found.inputs.shape == (1, 10)
    assert abs(found.inputs[0, 8:]).tolist() == [1, 1]
    np.savez(tmp_path / "z.npz", latents=found.inputs[:, :8].numpy(), condition=-np.ones((1, 2)))
    drawn = make_latents(SampleConfig(latents=str(tmp_path / "z.npz")), spec)
    assert drawn.row(0)[:, 8:].tolist() == [[-1, -1]]
    asked = make_latents(SampleConfig(latents=str(tmp_path / "z.npz"), with_="Male"), spec)
    assert asked.row(0)[:, 8:].tolist() == [[1, 1]]


def test_dataset_of_the_run_says_how_to_cut(run: Path, faces: Path, portraits: Path, tmp_path: Path) -> None:
    alone = shutil.copytree(run, tmp_path / "run")
    out, photo = ("--out", tmp_path / "p.png"), portraits / "000003.jpg"
    ended = projected(alone, photo, *out)
    assert ended.code == 0, ended.stderr
    assert "left out" not in ended.stderr
    assert "(" in ended.stdout.splitlines()[2]  # least and greatest distance of held-out faces
    assert ended.stdout.split()[-1].endswith("--latents)")
    file = alone / "checkpoints/000000008/generator.safetensors"
    ended = facegan("project", file, photo, *out, *QUICK, "--set", "project.held_out=0")
    assert (ended.code, ended.stderr) == (0, "")
    record = json.loads((alone / "run.json").read_text())
    for path in (str(tmp_path / "gone"), f"pipe:cat {300 * 'x'}.tar"):
        record["dataset"]["path"] = path
        (alone / "run.json").write_text(json.dumps(record))
        ended = projected(alone, photo, *out)
        said = " ".join(ended.stderr.split())
        assert (ended.code, "which is no dataset on this" in said, "--shards OUT" in said) == (2, True, True), said
    (tmp_path / "own").mkdir()
    about = json.loads((faces / "dataset.json").read_text())
    about["settings"] |= {"detector": "mine:Detector", "crop": "aligned"}
    (tmp_path / "own/dataset.json").write_text(json.dumps(about))
    ended = projected(alone, photo, *out, "--shards", tmp_path / "own")
    assert (ended.code, "code that would run here: mine:Detector" in ended.stderr) == (2, True)
    ended = projected(alone, photo, *out, "--shards", tmp_path / "own", "--with", "Male", "--dry-run")
    assert (ended.code, "--with Male needs a generator" in ended.stderr) == (2, True)
    ended = projected(alone, photo, tmp_path / "gone.jpg", *out, "--shards", tmp_path / "own", "--dry-run")
    assert (ended.code, "No such photograph" in ended.stderr) == (1, True)
    ended = projected(alone, photo, *out, "--shards", tmp_path / "own", "--dry-run")
    assert (ended.code, "mine:Detector was not tried" in ended.stderr) == (0, True)


def test_photographs_without_a_face_are_named(run: Path, models: Path, portraits: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((40, 40, 3), np.uint8))
    (tmp_path / "text.jpg").write_text("no picture")
    photos = [portraits / "000001.jpg", tmp_path / "small.png", tmp_path / "text.jpg", tmp_path / "gone.jpg"]
    ended = projected(run, *photos, "--out", tmp_path / "p.png")
    assert ended.code == 1
    small, text = "small.png: a face of too few pixels (too_small)", "text.jpg: not an image, or damaged (unreadable)"
    for why in (small, text, "gone.jpg cannot be read"):
        assert why in " ".join(ended.stderr.split())
    assert not (tmp_path / "p.png").exists()
    cv2.imwrite(str(tmp_path / "wall.png"), np.full((200, 200, 3), 120, np.uint8))
    with pytest.raises(DatasetError, match=r"wall\.png: no face found \(no_face\)"):
        cut_photos([tmp_path / "wall.png"], PrepConfig(size=32))
    assert cut_photos([portraits / "000001.jpg"], PrepConfig(size=32, channels=1)).shape == (1, 1, 32, 32)
