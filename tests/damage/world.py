"""One small file of every kind that facegan reads, made by its own commands."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from facegan.cli.app import _run

TRAIN = (
    "--batch 4 --precision fp32 --workers 1 --save-every 8 --sample-every 8 --log-every 4 "
    "--set train.width=4 --set train.latent=4"
)
TOML = """# Tiny.
#
# Paper: none.

[prep]
source = "{photos}"
size = 32
crop = "squash"
detector = "none"
workers = 0

[train]
method = "dcgan"
width = 4
latent = 4
batch = 4
images = 8
precision = "fp32"
save_every = 8
sample_every = 8
eval_every = 8
eval_n = 4
eval_metrics = "frechet_random"

[eval]
n = 4
metrics = "ms_ssim"

[report]
"""
PREP = "--crop squash --detector none --size 32 --shard-size 6 --workers 0"


def call(*arguments: object) -> tuple[int, str]:
    """Exit code and output of the command line, in this process."""
    said, result = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(result):
        code = _run([str(argument) for argument in arguments])
    return code, said.getvalue() or result.getvalue()


def done(*arguments: object) -> None:
    code, said = call(*arguments)
    assert code == 0, said


def make_world(top: Path) -> Path:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (12, 32, 32, 3)).astype(np.uint8)
    photos = top / "photos"
    for number, picture in enumerate(pixels):
        file = photos / f"{number % 2}" / f"{number:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), picture)
    labels = [[f"{number % 2}/{number:03d}.png", number % 2] for number in range(12)]
    (photos / "dataset.json").write_text(json.dumps({"labels": labels}))
    _make_sources(top / "sources", photos, pixels)
    done("prep", photos, top / "out", *PREP.split())
    _make_unfinished(top, photos)
    _make_run(top)
    _make_others(top, random)
    return top


def _make_sources(folder: Path, photos: Path, pixels: np.ndarray) -> None:
    folder.mkdir()
    files = sorted(photos.glob("*/*.png"))
    np.save(folder / "plain.npy", pixels)
    np.savez(folder / "labelled.npz", images=pixels, labels=np.arange(12))
    head = bytes((0, 0, 8, 3)) + np.array((12, 32, 32), ">i4").tobytes()
    (folder / "train-images-idx3-ubyte").write_bytes(head + pixels[..., 0].tobytes())
    (folder / "train-labels-idx1-ubyte").write_bytes(bytes((0, 0, 8, 1, 0, 0, 0, 12)) + bytes(range(12)))
    rows = [{"image": {"bytes": file.read_bytes(), "path": file.name}, "label": 1} for file in files]
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    for name, mode in (("photos.tar", "w"), ("photos.tar.gz", "w:gz")):
        with tarfile.open(folder / name, mode) as archive:  # type: ignore[call-overload] # of the two modes above
            archive.add(photos, "photos")
    with zipfile.ZipFile(folder / "photos.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.name)
    names = [file.name for file in files]
    marks = "\n".join(f"{name} 1 -1" for name in names)
    (folder / "list_attr.txt").write_text(f"{len(names)}\nYoung Smiling\n{marks}\n")


def _make_unfinished(top: Path, photos: Path) -> None:
    """A dataset whose making was stopped before its end, and one stopped while files were moved into place."""
    moments = {"unfinished": "facegan.prep.prepare.finish", "moving": "facegan.prep.storage.Journal.parse"}
    for name, where in moments.items():
        with patch(where, side_effect=KeyboardInterrupt):
            assert call("prep", photos, top / name, *PREP.split())[0] == 130


def _make_run(top: Path) -> None:
    done("train", "--shards", top / "out", "--run", top / "run", *TRAIN.split(), "--images", 16,
         "--eval-every", 8, "--set", "train.eval_n=4", "--set", "train.eval_metrics=frechet_random")  # fmt: skip
    done("eval", top / "run", "--shards", top / "out", "--metrics", "ms_ssim", "--n", 4, "--set", "eval.neighbours=2")
    shutil.copytree(top / "run", top / "other")
    done("export", top / "run", top / "exported")


def _make_others(top: Path, random: np.random.Generator) -> None:
    from safetensors.numpy import save_file

    folder = top / "given"
    folder.mkdir()
    latents = random.standard_normal((3, 4)).astype(np.float32)
    np.save(folder / "latents.npy", latents)
    np.savez(folder / "latents.npz", latents=latents, other=latents)
    save_file({"latents": latents, "other": latents}, folder / "latents.safetensors")
    (folder / "tiny.toml").write_text(TOML.format(photos=top / "photos"))
    done("run", folder / "tiny.toml", "--to", top / "experiment")
