"""The stages from faces to a generator and what it draws: ``[train]``, and a picture of samples."""

from __future__ import annotations

import hashlib
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facegan.config import TrainConfig
from facegan.config.resources import FacesConfig
from facegan.console import Console
from facegan.errors import DamagedFile, DatasetError, SettingsError
from facegan.files import parsing, read_json
from facegan.plugins import PIPE, Trust, is_import_path, source_digests
from facegan.recipes.fingerprint import fingerprint
from facegan.recipes.recipe import Recipe, is_local, number_or_auto
from facegan.shards.format import DATASET_FILE, DatasetInfo

SAMPLES = 64
GENERATOR = "generator.safetensors"


@dataclass
class TrainStage:
    """``[train]``: faces to a generator."""

    recipe: Recipe
    faces: FacesConfig
    shards: str
    run: Path
    trust_code: Trust = False
    name: str = "train"

    @property
    def where(self) -> str:
        return str(self.run)

    def config(self) -> TrainConfig:
        """
        Raises:
            DatasetError: a length is given in epochs, and there is no dataset that tells how long they are.
        """
        return self.recipe.train(self._count() if self.recipe.in_epochs else None)

    def inputs(self) -> dict[str, Any]:
        """How it saves and logs is none of them, where that changes nothing of a training that is done."""
        config = self.config()
        settings = config.model_dump(mode="json", exclude=set(config.free_on_resume - {"images"}))
        own = source_digests({"nets": config.nets, "loss": config.loss})
        code = {f"code of {name}": told["sha256"] for name, told in own.items()}
        return {**self._seen(), "split": self.faces.split, "init": self.faces.init, **settings, **code}

    def outputs(self) -> list[Path]:
        return [self.run / GENERATOR]

    def title(self) -> str:
        return f"facegan train --shards {self.shards} --run {self.run}"

    def plan(self) -> str:
        """Faces that are still to be made are not looked at."""
        if self._stands():
            self._refuse_other_run()
        config = self.recipe.train()
        length = self.recipe.given["train"].get("images") if "images" in self.recipe.in_epochs else None
        return f"{config.method}, {length or f'{config.images:,} images'}, batch {config.batch}"

    def refuse_unfit_nets(self, size: int, channels: int, try_code: bool) -> None:
        """
        Args:
            try_code: import nets of the user's own; else nothing is found out about them.

        Raises:
            SettingsError: the nets can't make faces of this size or of so many channels; told before hours of
                preparing them.
        """
        from facegan.nets import find_pair
        from facegan.training.trainer import spec_of

        with self.recipe.located("train"):
            config = self.recipe.train()
            if try_code or not is_import_path(config.nets):
                find_pair(spec_of(config, size, channels))

    def do(self, console: Console, command: list[str]) -> dict[str, Any]:
        from facegan.evaluate.during_training import training_measure
        from facegan.training import train

        with self._opened(console) as faces:
            config = self.recipe.train(len(faces))
            return train(
                config,
                faces,
                self.run,
                device=self.faces.device,
                init=self.faces.init or None,
                console=console,
                dataset=self.shards,
                command=command,
                measure=training_measure(config, faces, self.shards, self._stream()),
                trust_code=self.trust_code,
            ).to_json()

    def tell(self, result: dict[str, Any]) -> str:
        losses = f"losses D {result['loss_d']:.2f}, G {result['loss_g']:.2f}"
        told = f"{result['images']:,} images, {losses}, {result['images_per_second']:,.0f} images/s"
        best = result.get("best")
        return told + (f", best {best['metric']} {best['value']:.3g} at {best['images']:,}" if best else "")

    def _opened(self, console: Console) -> closing[Any]:
        from facegan.stream import open_faces

        return closing(open_faces(self.shards, self.faces.split, self._stream(), console))

    def _stream(self) -> Any:
        from facegan.stream import StreamOptions

        return StreamOptions(self.faces.cache, number_or_auto(self.faces.workers))

    def _stands(self) -> bool:
        """Whether faces are there to be looked at: a command would have to be run."""
        if self.shards.startswith(PIPE):
            return False
        return not is_local(self.shards) or (Path(self.shards) / DATASET_FILE).is_file()

    def _refuse_other_run(self) -> None:
        from facegan.training import plan_train

        with self._opened(Console(quiet=True)) as faces:
            config = self.recipe.train(len(faces))
            plan_train(config, faces, self.run, device=self.faces.device, init=self.faces.init or None)

    def _dataset(self) -> DatasetInfo | None:
        """None for shards that are no dataset in a folder: nothing tells their faces at a glance."""
        folder = Path(self.shards)
        return DatasetInfo.read(folder) if is_local(self.shards) and not folder.is_file() else None

    def _seen(self) -> dict[str, str]:
        """Of a dataset its sums, wherever it lies."""
        info = self._dataset()
        if info is None:
            return {"shards": self.shards, "faces": fingerprint(self.shards)}
        sums = "".join(shard.sha256 for shard in info.split_shards(self.faces.split))
        return {"faces": hashlib.sha256(sums.encode()).hexdigest()}

    def _count(self) -> int:
        info = self._dataset()
        if info is None:
            raise SettingsError(
                f"A length in epochs needs a dataset in a folder, and {self.shards} is none: use images or steps."
            )
        count = sum(shard.samples for shard in info.split_shards(self.faces.split))
        if not count:
            raise DatasetError(f"{self.shards} has no split '{self.faces.split}': it has {', '.join(info.splits)}.")
        return count


@dataclass
class SampleStage:
    """What the trained generator draws, as one picture."""

    run: Path
    picture: Path
    device: str
    measured: bool = False  # on the way: the best checkpoint draws, and not the newest
    trust_code: Trust = False
    name: str = "sample"

    @property
    def where(self) -> str:
        return str(self.picture)

    def inputs(self) -> dict[str, Any]:
        return {"generator": fingerprint(str(self._drawn_by() / GENERATOR)), "samples": SAMPLES, "seed": 0}

    def outputs(self) -> list[Path]:
        return [self.picture]

    def title(self) -> str:
        return f"facegan sample {self._drawn_by()} --out {self.picture}"

    def plan(self) -> str:
        return f"{SAMPLES} samples are drawn"

    def do(self, console: Console, command: list[str]) -> dict[str, Any]:
        from facegan.config import SampleConfig
        from facegan.sample import write_grid

        config = SampleConfig(n=SAMPLES)
        write_grid(self._drawn_by(), self.picture, config, device=self.device, trust_code=self.trust_code)
        return {"samples": SAMPLES}

    def tell(self, result: dict[str, Any]) -> str:
        return f"{result['samples']} samples"

    def _drawn_by(self) -> Path:
        return drawn_by(self.run, self.measured)


def drawn_by(run: Path, measured: bool) -> Path:
    """The best checkpoint of a run that was measured on the way; else the run, whose generator is the newest.

    Found without torch, which takes seconds to load: best.json and the checkpoints' names are plain.
    """
    try:
        with parsing(run / "best.json"):
            images = int(read_json(run / "best.json")["images"])
    except (OSError, DamagedFile):
        return run
    checkpoint = run / "checkpoints" / f"{images:09d}"
    return checkpoint if measured and (checkpoint / GENERATOR).is_file() else run
