"""The latents whose images are nearest to photographs' faces.

D(x, t) = λ d₀ + (1 − λ) (d₁ + d₂ + d₃ + d₄) / 4,   d_k = Σ (f_k(x) − f_k(t))² / Σ (f_k(t) − mean f_k(t))²

with f₀ the pixels and f₁ … f₄ the maps of `facegan.evaluate.random_net`, the mean over space for each channel: 0 for
the same image, about 1 for one that has the face's colours and nothing else. The maps keep positions, which the means
of `random_features` do not; untrained ones judge patches nearly as people do (Zhang et al. 2018, arXiv:1801.03924,
table 5). D falls by Adam from several starts, the nearest of many samples.

Normal latents stay on the sphere of radius √Z, near which normal draws are: elsewhere a generator draws faces that it
never learned (Menon et al. 2020, PULSE, arXiv:2003.03808, section 3.3). Others stay where they can be drawn.

N images, C channels, S side, Z length of a latent, K numbers of a condition.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facegan.config import PrepConfig, ProjectConfig
from facegan.console import shown
from facegan.errors import DatasetError, SettingsError, one_of
from facegan.evaluate.memorization import sheet
from facegan.evaluate.random_net import RANDOM_NET, feature_maps
from facegan.evaluate.reference import FeatureCache, dataset_info, read_first_faces
from facegan.faces.decode import Photo, Rejected
from facegan.faces.detect import make_detector
from facegan.files import make_folder, sha256_file, write_bytes
from facegan.nets import Generator, NetSpec
from facegan.nets.random import inside
from facegan.nets.weights import read_generator
from facegan.plugins import is_import_path, refuse_untrusted
from facegan.prep.cut import PhotoFaces, PhotoRecord
from facegan.prep.request import find_models, stored_config
from facegan.prep.sources.base import MAX_BYTES
from facegan.remote import is_url
from facegan.run_dir import STATE, read_run
from facegan.sample.generate import SampleRequest, save_png, to_uint8
from facegan.sample.latents import sample_inputs, with_attributes
from facegan.shards.format import DATASET_FILE, REASONS
from facegan.stream import FaceShards
from facegan.stream.webdataset import is_webdataset

_CANDIDATES = 32  # samples for each start
_BATCH = 64
_HELD_OUT = ("test", "val")  # splits


@dataclass(frozen=True)
class Projection:
    """
    Attributes:
        inputs: float32 (1, Z + K) on the CPU.
        image: uint8 (1, C, S, S) on the CPU.
        distances: D at the end of each start, ascending; the first is that of the image.
    """

    inputs: Tensor
    image: Tensor
    distances: list[float]


def project(generator: Generator, spec: NetSpec, face: Tensor, config: ProjectConfig) -> Projection:
    """The nearest image to a face, uint8 (1, C, S, S), by a generator in eval mode whose weights are frozen.

    ``spec``: the generator's, maybe with fewer conditions. A start keeps the condition of its sample, so that the one
    that fits best wins. The same face and settings give the same bits on one kind of CPU and number of threads.
    """
    device = next(generator.parameters()).device
    target = feature_maps(_scaled(face).to(device))
    candidates = sample_inputs(spec, _CANDIDATES * config.starts, config.seed).to(device)
    with torch.no_grad():
        near = torch.cat([_distance(generator(block), target, config) for block in candidates.split(_BATCH)])
    starts = candidates[near.argsort(stable=True)[: config.starts]]
    codes = starts[:, spec.latent :]
    z = _kept(starts[:, : spec.latent], spec).requires_grad_()
    adam = torch.optim.Adam([z], config.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, config.steps)
    for _ in range(config.steps):
        adam.zero_grad()
        _distance(generator(torch.cat([z, codes], 1)), target, config).sum().backward()
        adam.step()
        schedule.step()
        with torch.no_grad():
            z.copy_(_kept(z, spec))
    with torch.no_grad():
        inputs = torch.cat([z, codes], 1)
        images = generator(inputs)
        distances, order = _distance(images, target, config).sort(stable=True)
    best = order[:1]
    return Projection(inputs[best].cpu(), to_uint8(images[best]).cpu(), distances.tolist())


def _scaled(images: Tensor) -> Tensor:
    return images.float().div(127.5).sub(1)


def _kept(z: Tensor, spec: NetSpec) -> Tensor:
    return inside(z, "sphere" if spec.distribution == "normal" else spec.distribution)


def _distance(images: Tensor, target: list[Tensor], config: ProjectConfig) -> Tensor:
    """D of float images (N, C, S, S) from the maps of one, (N,)."""
    parts = list[Tensor]()
    for ours, theirs in zip(feature_maps(images.float()), target, strict=True):
        variation = (theirs - theirs.mean((2, 3), keepdim=True)).square().sum().clamp(min=1e-6)
        parts.append((ours - theirs).square().sum((1, 2, 3)) / variation)
    return config.pixels * parts[0] + (1 - config.pixels) * torch.stack(parts[1:]).mean(0)


@dataclass(frozen=True)
class Projections:
    """
    Attributes:
        photos: paths.
        faces: as prep cut them out, uint8 (N, C, S, S).
        held_out: distances of held-out real faces.
    """

    spec: NetSpec
    photos: Sequence[Path]
    faces: Tensor
    found: list[Projection]
    held_out: list[float]

    def write(self, out: Path) -> Path:
        """A picture of photographs and projections; and beside it the latents for ``facegan sample --latents``, whose
        path is returned."""
        from safetensors.torch import save

        make_folder(out.absolute().parent)
        rows = [[face[None], each.image] for face, each in zip(self.faces, self.found, strict=True)]
        save_png(out, sheet(rows, len(rows), ("photograph", "projection")))
        tensors = self.spec.split(torch.cat([each.inputs for each in self.found]))
        latents = out.with_name(f"{out.stem}-latents.safetensors")
        write_bytes(latents, save({name: tensor.contiguous() for name, tensor in tensors.items()}))
        return latents

    def to_json(self) -> dict[str, Any]:
        photos = []
        for photo, each in zip(self.photos, self.found, strict=True):
            codes, condition = each.inputs[:, self.spec.latent :], self.spec.condition
            attributes = {name: values[0] for name, values in condition.values_of(codes).items()} if condition else {}
            facts = {"photo": str(photo), "distance": each.distances[0], "starts": each.distances}
            photos.append(facts | ({"condition": attributes} if attributes else {}))
        return {"photos": photos, "real_faces": self.held_out}

    def rows(self) -> list[list[str]]:
        """For each photograph its distance, beside the median of the held-out faces, the least and the greatest."""
        least, median, most = np.quantile(self.held_out, (0, 0.5, 1)) if self.held_out else (0, 0, 0)
        real = f"{median:.3f} ({least:.3f}–{most:.3f})" if self.held_out else "–"
        pairs = zip(self.photos, self.found, strict=True)
        return [[shown(photo), f"{each.distances[0]:.3f}", real] for photo, each in pairs]


def project_photos(request: SampleRequest, photos: Sequence[Path], shards: str, config: ProjectConfig) -> Projections:
    """Project the face of each photograph, cut out as prep cut those of ``shards``, and held-out faces of that
    dataset; "" is the run's own.

    Raises:
        SettingsError: the dataset is unknown or does not fit, or its detector is code that is not trusted.
        DatasetError: photographs cannot be read, or prep rejects them: each with its reason.
    """
    file, spec, shards, settings = plan(request.run, shards, config)
    if is_import_path(settings.detector):
        refuse_untrusted("prep.detector of the dataset", settings.detector, request.trust_code)
    faces = cut_photos(photos, settings.model_copy(update={"size": spec.size, "channels": spec.channels}))
    real, digest = _held_out_faces(shards, spec, config), sha256_file(file)  # now: a training may replace the file
    generator = request.load()
    if config.held_out and not len(real):
        why = f"{shards} has no split {one_of(_HELD_OUT)}"
        request.console.note(f"Distances of held-out real faces are left out: {why}.")
    with request.console.progress(len(faces) + len(real), "faces") as progress:
        done = 0

        def find(face: Tensor) -> Projection:
            nonlocal done
            found = project(generator, spec, face[None], config)
            progress.advance(1)
            done += 1
            return found

        found = [find(face) for face in faces]
        identity = {"faces": hashlib.sha256(real.numpy().tobytes()).hexdigest(), "generator": digest}
        key = {"net": RANDOM_NET, **config.model_dump()}
        held_out = FeatureCache(identity).get(
            "projected", key, lambda: {"": np.array([find(face).distances[0] for face in real])}
        )
        progress.advance(len(faces) + len(real) - done)  # the held-out ones may be cached
    return Projections(spec, photos, faces, found, held_out[""].tolist())


def plan(run: Path, shards: str, config: ProjectConfig) -> tuple[Path, NetSpec, str, PrepConfig]:
    """The generator's file and spec, the dataset, and the settings by which its faces were cut out. Raises
    SettingsError if the dataset is unknown or does not fit."""
    file, _, spec = read_generator(run)
    spec, shards = with_attributes(config, spec), shards or dataset_of(run)
    settings = prep_settings(shards)
    if config.held_out and (settings.size, settings.channels) != (spec.size, spec.channels):
        raise SettingsError(
            f"The faces of {shards} are {settings.size}×{settings.size} in {settings.channels} channels; the generator "
            f"draws {spec.size}×{spec.size} in {spec.channels}.\nName the dataset that it was trained on."
        )
    return file, spec, shards, settings


def cut_photos(photos: Sequence[Path], config: PrepConfig) -> Tensor:
    """The best face of each photograph as prep cuts it out, uint8 (N, C, S, S). Raises DatasetError with the reasons
    if there is none in some."""
    faces, problems = list[Tensor](), list[str]()
    with closing(make_detector(config, find_models(config))) as detector:
        for path in photos:
            try:
                if path.stat().st_size > MAX_BYTES:
                    raise Rejected("too_large")
                data = path.read_bytes()
                photo = PhotoFaces(Photo(data), config, detector)
                face = photo.cut(config, PhotoRecord(str(path), len(data)))[0].pixels
                faces.append(torch.from_numpy(face).permute(2, 0, 1))
            except Rejected as rejected:
                problems.append(f"{shown(path)}: {REASONS[rejected.reason]} ({rejected.reason}).")
            except OSError as error:
                problems.append(f"{shown(path)} cannot be read: {error.strerror or error}.")
    if problems:
        raise DatasetError("\n".join(problems))
    return torch.stack(faces)


def dataset_of(run: Path) -> str:
    """The dataset that a run, one of its checkpoints or its generator names; SettingsError if it is not there."""
    folder = (run if run.is_dir() else run.parent).absolute()
    record = read_run(folder.parent.parent if (folder / STATE).is_file() else folder)
    shards = record.dataset.path if record else ""
    if is_url(shards) or is_webdataset(shards) or not (Path(shards) / DATASET_FILE).is_file():
        where = f"in {shown(shards)}, which is no dataset on this machine" if shards else "unknown"
        raise SettingsError(
            f"The dataset of {run}, whose settings of prep decide how a face is cut out, is {where}.\n"
            "Name it, or one made by the same settings, with --shards OUT."
        )
    return shards


def prep_settings(shards: str) -> PrepConfig:
    """By which the faces of a dataset were cut out of photographs."""
    info = dataset_info(shards)
    if info.is_generated:
        raise SettingsError(f"{shards} has faces from facegan sample, not from photographs. Name another --shards.")
    return stored_config(info.settings)


def _held_out_faces(shards: str, spec: NetSpec, config: ProjectConfig) -> Tensor:
    """uint8 (M, C, S, S); M = 0 if there is no held-out split."""
    split = next((name for name in _HELD_OUT if name in dataset_info(shards).splits), "")
    if not split or not config.held_out:
        return torch.empty((0, spec.channels, spec.size, spec.size), dtype=torch.uint8)
    with closing(FaceShards(shards, split, cache="off")) as faces:
        return read_first_faces(faces, min(config.held_out, len(faces)), config.seed)
