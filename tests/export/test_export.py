"""``facegan export``: the folder it writes, and how other programs use it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pickletools
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import facegan
from facegan.config import ExportConfig, TrainConfig
from facegan.errors import SettingsError
from facegan.export import write
from facegan.export.card import CardFacts, Provenance, card
from facegan.export.write import CONFIG_NAME, NAMES, export_generator, plan_export
from facegan.nets import Condition, save_generator
from facegan.run_dir import Evaluation
from facegan.stream import FaceShards
from facegan.training import train
from tests.export.tiny_generators import BINARY, CLASSES, tiny_generator
from tests.recipes.program import facegan as program
from tests.stopping import stopped_at_line

METRICS = {"swd": 21.5, "density": 0.75}
SMALL = ("--set", "export.program=false", "--set", "export.samples=1")
SMALL_CONFIG = ExportConfig(samples=1, program=False)


@pytest.fixture(scope="module")
def run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    config = TrainConfig.for_method("dcgan", width=4, latent=8, batch=4, images=8, precision="fp32", save_every=4)
    with contextlib.closing(FaceShards(str(dataset))) as faces:
        train(config, faces, folder, device="cpu", dataset=str(dataset))
    return folder


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    sha256 = hashlib.sha256((run / "generator.safetensors").read_bytes()).hexdigest()
    evaluation = {
        "measured": {"kind": "run", "generator_sha256": sha256},
        "metrics": METRICS | {"broken": None},
        "floors": {"swd": 3.25},
        "protocol": {"split": "test", "samples": 2048, "resize": "a | b\n# c"},
        "warnings": ["FID of 1,000 images says little"],
    }
    (run / "eval.json").write_text(json.dumps(evaluation))
    out = tmp_path_factory.mktemp("out") / "export"
    ended = program("export", run, out, "--onnx", "--fp16", "--int8", "--set", "export.samples=4", "--json")
    (run / "eval.json").unlink()
    assert ended.code == 0, ended.stderr
    printed = json.loads(ended.stdout)
    assert printed["files"] == {name: (out / name).stat().st_size for name in NAMES}
    differences = printed["differences"]
    assert differences["generator.onnx"]["largest_greys"] < 1e-4 * 127.5
    assert 0 < differences["generator-fp16.onnx"]["largest_greys"] < 2
    assert 0 < differences["generator-int8.onnx"]["mean_greys"] < 10
    assert printed["files"]["generator-fp16.onnx"] < 0.65 * printed["files"]["generator.onnx"]
    return out


def test_config_json_lists_every_checksum(exported: Path, run: Path) -> None:
    data = {path.name: path.read_bytes() for path in exported.iterdir()}
    files = json.loads(data.pop(CONFIG_NAME))["files"]
    assert files == {name: {"bytes": len(it), "sha256": hashlib.sha256(it).hexdigest()} for name, it in data.items()}
    latents = torch.randn(2, 8)
    assert torch.equal(facegan.load_generator(exported)(latents), facegan.load_generator(run)(latents))


def test_no_file_has_pickles_or_paths(exported: Path, run: Path, dataset: Path) -> None:
    members = {path.name: path.read_bytes() for path in exported.iterdir()}
    with zipfile.ZipFile(exported / "generator.pt2") as archive:
        members |= {name: archive.read(name) for name in archive.namelist()}
    for name, data in members.items():
        operations = []
        with contextlib.suppress(Exception):  # pickletools raises many kinds on other bytes
            operations += [operation.name for operation, *_ in pickletools.genops(data)]
        assert operations[-1:] != ["STOP"] or len(operations) == 1, name
        assert not any(str(place).encode() in data for place in (run, dataset, Path.cwd(), Path.home())), name


def run_snippets(exported: Path) -> str:
    """The output of the card's snippets, one after the other, without facegan."""
    snippets = [part.partition("```")[0] for part in (exported / "README.md").read_text().split("```python\n")[1:3]]
    assert len([line for line in snippets[0].splitlines() if line.strip()]) <= 5
    end = "\nprint(tuple(images.shape), bool(abs(images).max() <= 1))\n"
    command = [sys.executable, "-c", "import sys\nsys.modules['facegan'] = None\n" + end.join([*snippets, ""])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=exported, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_card_snippets_run_without_facegan(exported: Path) -> None:
    assert run_snippets(exported) == "(16, 3, 64, 64) True\n" * 2


@pytest.mark.slow
@pytest.mark.parametrize("condition", [BINARY, CLASSES], ids=["binary", "classes"])
def test_conditional_exports_say_how_to_ask(condition: Condition, tmp_path: Path) -> None:
    file, out = tmp_path / "generator.safetensors", tmp_path / "out"
    save_generator(file, generator := tiny_generator("dcgan-fc", 28, 1, condition))
    found = export_generator(file, out, ExportConfig(onnx=True, fp16=True, int8=True, samples=4, compared=16))
    assert found.differences["generator.onnx"].largest_greys < 1e-4 * 127.5
    assert found.differences["generator-fp16.onnx"].largest_greys < 2
    assert found.differences["generator-int8.onnx"].mean_greys < 10
    assert run_snippets(out) == "(16, 1, 28, 28) True\n" * 2
    card = (out / "README.md").read_text()
    if condition is BINARY:
        assert "for each of `Eyeglasses`, `Male`, in this order: 1 to draw it with, -1 to draw it without." in card
        assert "condition = numpy.array([[-1, 1]] * 16)  # without Eyeglasses, with Male\n" in card
        assert "--with Eyeglasses" in card
    else:
        assert "of the 4 numbers of an image, that at its class (`digit`, from 0) is 1" in card
        assert "condition = torch.eye(4)[[3] * 16]  # digit 3\n" in card
        assert "--class 3" in card
    described = json.loads((out / CONFIG_NAME).read_text())
    assert described["condition"]["names"] == list(condition.names)
    assert described["nets"] == generator.spec.to_json()


def test_hub_reads_the_card(exported: Path) -> None:
    card = pytest.importorskip("huggingface_hub").ModelCard.load(exported / "README.md")
    data = card.data.to_dict()
    assert (data["library_name"], data["license"]) == ("facegan", "unknown")
    assert data["pipeline_tag"] == "unconditional-image-generation"
    assert data["metrics"] == list(METRICS)
    (result,) = data["model-index"][0]["results"]
    assert {entry["type"]: entry["value"] for entry in result["metrics"]} == METRICS
    assert result["dataset"]["split"] == "test"
    for words in ("`swd` | 21.5 | 3.25 |", "a &#124; b?# c", "FID of 1,000 images says little", "60 photographs",
                  "personal data", "cannot state their terms"):  # fmt: skip
        assert words in card.text


def test_card_of_conditional_generator(tmp_path: Path) -> None:
    """Its option is quoted for the shell, it does not pass for unconditional, and damaged groups are not shown."""
    condition = Condition(("Open mouth",), 0, ((-1,), (1,)), (30, 50))
    for missed in (5, None, ["x"]):
        evaluation = Evaluation.model_validate({"metrics": METRICS, "groups": {"missed": missed, "groups": 5}})
        provenance = Provenance(tmp_path, None, None, evaluation=evaluation)
        text = card(tiny_generator("dcgan", 32, 1, condition).spec, provenance, CardFacts({}, {}, 1))
        assert "--out grid.png --with 'Open mouth'" in text
        assert "unconditional" not in text
        assert "      type: image-generation\n" in text
        assert "Groups that it misses" not in text


def test_card_states_terms_of_known_data_set(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Portraits pass for CelebA; the run was given a relative path, and is exported from another folder."""
    info = json.loads((shutil.copytree(dataset, tmp_path / "faces") / "dataset.json").read_bytes())
    (tmp_path / "faces" / "dataset.json").write_text(json.dumps(info | {"data_set": "celeba-aligned"}))
    train = ("train", "--shards", "faces", "--run", "run", "--batch", 4, "--set", "train.width=4")
    monkeypatch.chdir(tmp_path)
    assert program(*train, "--images", 8, "--precision", "fp32").code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    ended = program("export", "../run", "out", *SMALL)
    assert ended.code == 0, ended.stderr
    card = Path("out/README.md").read_text()
    assert card.startswith("---\nlicense: other\nlicense_name: celeba\n")
    assert "datasets:\n- celeba-aligned\n" in card
    assert "For non-commercial research only." in card
    assert str(tmp_path) not in card


def test_export_again_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "out", ("--set", "export.samples=2")
    planned = program("export", run, out, "--int8", "--dry-run", "--json")
    assert json.loads(planned.stdout)["files"] == [name for name in NAMES if name != "generator-fp16.onnx"]
    assert not out.exists()
    assert program("export", run, out, *options).code == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for name in ("mine.txt", "generator-int8.onnx"):  # the second: of an earlier export with more options
        (out / name).write_text("mine")
    (out / CONFIG_NAME).unlink()  # as after a kill
    (out / ".export.partial").mkdir()
    assert program("export", run, out, *options).code == 0
    after = {path.name: path.read_bytes() for path in out.iterdir()}
    assert after == before | {"mine.txt": b"mine"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("TMP/empty", "TMP/out"), 1, "with its first checkpoint"),
        (("TMP/none", "TMP/out"), 1, "Name a run"),
        (("RUN", "RUN"), 2, "contains the generator itself"),
        (("RUN", "TMP/file"), 1, "TMP/file"),
        (("RUN", "TMP/out", "--public"), 2, "--public"),
        (("RUN", "TMP/out", "--best"), 1, "best"),
        (("RUN", "TMP/out", "--set", "export.samples=0"), 2, "samples"),
        (("RUN", "TMP/out", "--set", f"export.compared={10**9}"), 2, "compared"),
        (("RUN", "TMP/out", "--push", "a/b/c"), 2, "Use NAMESPACE/NAME"),
    ],
)
def test_wrong_arguments_are_errors(
    arguments: tuple[str, ...], code: int, message: str, run: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    ended = program("export", *(each.replace("TMP", str(tmp_path)).replace("RUN", str(run)) for each in arguments))
    assert (ended.code, message.replace("TMP", str(tmp_path)) in ended.stderr) == (code, True), ended.stderr
    assert ended.stdout == ""
    assert not (tmp_path / "out").exists()


def test_onnx_needs_its_extra(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facegan.export.onnx._EXTRA", ("onnx", "facegan_has_no_such_package"))
    with pytest.raises(SettingsError, match=r"pip install 'facegan\[onnx\]'"):
        export_generator(run, tmp_path / "out", ExportConfig(fp16=True))
    assert not (tmp_path / "out").exists()


def test_lone_generator_says_what_is_missing(tmp_path: Path) -> None:
    save_generator(tmp_path / "lone.safetensors", tiny_generator("mlp", 28, 1))
    arguments = ("export", tmp_path / "lone.safetensors", tmp_path / "out", *SMALL)
    ended = program(*arguments)
    assert ended.code == 0, ended.stderr
    assert "is not in a run's folder" in ended.stderr
    assert "This generator was not evaluated" in (tmp_path / "out" / "README.md").read_text()
    (tmp_path / "eval.json").write_text(json.dumps({"measured": {"generator_sha256": "0"}, "metrics": METRICS}))
    assert "eval.json measured another generator" in program(*arguments).stderr
    assert "21.5" not in (tmp_path / "out" / "README.md").read_text()


def test_full_disk_leaves_no_folder(small_disk: Path, tmp_path: Path) -> None:
    save_generator(tmp_path / "large.safetensors", tiny_generator("mlp", 64, 3))
    ended = program("export", tmp_path / "large.safetensors", small_disk / "out", "--quiet")
    assert ended.code == 1
    assert "is full" in ended.stderr
    assert not (small_disk / "out").exists()


@pytest.mark.parametrize("name", ["README.md", "generator.safetensors"])
def test_foreign_files_are_not_overwritten(name: str, run: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_text('{"mine": "facegan"}')
    with pytest.raises(SettingsError, match=f"contains {name}, which facegan export did not write"):
        export_generator(run, tmp_path, SMALL_CONFIG)
    assert (tmp_path / name).read_text() == '{"mine": "facegan"}'
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("nowhere")
    with pytest.raises(SettingsError, match="would overwrite"):
        plan_export(run, tmp_path, SMALL_CONFIG)
    (checkpoint,) = (run / "checkpoints").glob("*8")
    before = (run / "generator.safetensors").stat().st_mtime_ns
    with pytest.raises(SettingsError, match="would overwrite"):
        export_generator(checkpoint, run, SMALL_CONFIG)
    assert (run / "generator.safetensors").stat().st_mtime_ns == before


def test_killed_export_is_completed(run: Path, tmp_path: Path) -> None:
    """After a kill at any line of the last steps, config.json exists only if all files do; before them, no file."""
    out, names = tmp_path / "out", {"generator.safetensors", "samples.png", "README.md", "config.json"}
    with stopped_at_line(write._contents, 1), pytest.raises(KeyboardInterrupt):
        export_generator(run, out, SMALL_CONFIG)
    assert not out.exists()
    for line in range(12):
        with stopped_at_line(write._move_files, line), contextlib.suppress(KeyboardInterrupt):
            export_generator(run, out, SMALL_CONFIG)
        left = {path.name for path in out.iterdir()} if out.exists() else set()
        assert left <= names
        assert "config.json" not in left or left == names
    export_generator(run, out, SMALL_CONFIG)
    assert {path.name for path in out.iterdir()} == names
