"""``facegan export``: the folder that it leaves, and what becomes of it elsewhere."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pickletools
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

import facegan
from facegan.config import ExportConfig
from facegan.errors import SettingsError
from facegan.export import write
from facegan.export.write import CONFIG_NAME, NAMES, export_generator, plan_export
from facegan.nets import NetSpec, make_generator, save_generator
from tests.export.handed import alone, tiny_run
from tests.export.pairs import tiny_generator
from tests.recipes.program import facegan as program
from tests.stopping import stopped_at_line

METRICS = {"swd": 21.5, "density": 0.75}


@pytest.fixture(scope="module")
def run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run(dataset, tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With everything, and with what was measured; from a run whose name is no harmless one."""
    told = {
        "measured": {
            "kind": "run",
            "generator_sha256": hashlib.sha256((run / "generator.safetensors").read_bytes()).hexdigest(),
        },
        "metrics": METRICS | {"broken": None},
        "floors": {"swd": 3.25},
        "protocol": {"split": "test", "samples": 2048, "resize": "a | b\n# c"},
        "warnings": ["FID of 1,000 images says little"],
    }
    (run / "eval.json").write_text(json.dumps(told))
    out = tmp_path_factory.mktemp("out") / "export"
    ended = program("export", run, out, "--onnx", "--fp16", "--int8", "--set", "export.samples=4", "--json")
    (run / "eval.json").unlink()
    assert ended.code == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert list(told["files"]) == list(NAMES)
    assert told["files"] == {name: (out / name).stat().st_size for name in NAMES}
    apart = told["differences"]
    assert apart["generator.onnx"]["largest_greys"] < 1e-4 * 127.5
    assert 0 < apart["generator-fp16.onnx"]["largest_greys"] < 2
    assert 0 < apart["generator-int8.onnx"]["mean_greys"] < 10
    assert told["files"]["generator-fp16.onnx"] < 0.65 * told["files"]["generator.onnx"]
    return out


def test_the_folder_holds_these_files_and_their_sums(exported: Path) -> None:
    assert sorted(path.name for path in exported.iterdir()) == sorted(NAMES)
    files = json.loads((exported / CONFIG_NAME).read_bytes())["files"]
    assert files.keys() == set(NAMES) - {CONFIG_NAME}
    for name, told in files.items():
        data = (exported / name).read_bytes()
        assert told == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_nothing_is_pickled(exported: Path) -> None:
    members = {path.name: path.read_bytes() for path in exported.iterdir()}
    with zipfile.ZipFile(exported / "generator.pt2") as archive:
        members |= {name: archive.read(name) for name in archive.namelist()}
    for name, data in members.items():
        assert not is_pickle(data), name
        assert not zipfile.is_zipfile(exported / name) or name == "generator.pt2"


def is_pickle(data: bytes) -> bool:
    try:
        operations = [operation.name for operation, *_ in pickletools.genops(data)]
    except Exception:  # what the reader of pickles raises on other bytes
        return False
    return operations[-1:] == ["STOP"] and len(operations) > 1


def test_facegan_loads_it(exported: Path, run: Path) -> None:
    ours, theirs = facegan.load_generator(exported), facegan.load_generator(run)
    latents = torch.randn(2, 8)
    assert torch.equal(ours(latents), theirs(latents))


def test_the_cards_lines_draw_where_there_is_no_facegan(exported: Path, run: Path) -> None:
    card = (exported / "README.md").read_text()
    torch_lines, onnx_lines, program_lines = (part.partition("```")[0] for part in card.split("```python\n")[1:4])
    ends = "\nprint(tuple(images.shape), bool(abs(images).max() <= 1), 'facegan' in sys.modules)"
    save = (
        "\nfrom safetensors.torch import save_file"
        "\nsave_file({'z': values['latents'], 'x': images}, 'drawn.safetensors')"
    )
    assert alone(torch_lines + ends + save, exported).split("\n")[0] == "(16, 3, 64, 64) True False"
    from safetensors.torch import load_file

    drawn = load_file(exported / "drawn.safetensors")
    (exported / "drawn.safetensors").unlink()
    torch.testing.assert_close(drawn["x"], facegan.load_generator(run)(drawn["z"]), rtol=0, atol=1e-6)
    for lines in (onnx_lines, program_lines):
        assert alone(lines + ends, exported) == "(16, 3, 64, 64) True False\n"


def test_the_card_is_one_of_the_hubs(exported: Path) -> None:
    cards = pytest.importorskip("huggingface_hub")
    card = cards.ModelCard.load(exported / "README.md")
    told = card.data.to_dict()
    assert told["library_name"] == "facegan"
    assert told["pipeline_tag"] == "unconditional-image-generation"
    assert told["license"] == "unknown"
    assert told["metrics"] == list(METRICS)
    (result,) = told["model-index"][0]["results"]
    assert {entry["type"]: entry["value"] for entry in result["metrics"]} == METRICS
    assert result["dataset"]["split"] == "test"
    assert "`swd` | 21.5 | 3.25 |" in card.text
    assert "a &#124; b?# c" in card.text
    assert "FID of 1,000 images says little" in card.text
    assert "60 photographs" in card.text
    assert "personal data" in card.text
    assert "can't say what may be done" in card.text


def test_the_card_names_no_place_of_this_machine(exported: Path, run: Path, dataset: Path) -> None:
    for path in exported.iterdir():
        data = path.read_bytes()
        for place in (run, dataset, Path.cwd(), Path.home()):
            assert str(place).encode() not in data, path.name


def test_the_terms_of_a_known_data_set_go_with_the_model(run: Path, dataset: Path, tmp_path: Path) -> None:
    """The portraits pass for CelebA's here: what a card says follows from dataset.json alone."""
    faces, copy = tmp_path / "faces", Path(shutil.copytree(run, tmp_path / "run"))
    faces.mkdir()
    info = json.loads((dataset / "dataset.json").read_bytes()) | {"data_set": "celeba-aligned"}
    (faces / "dataset.json").write_text(json.dumps(info))
    record = json.loads((copy / "run.json").read_bytes())
    record["dataset"]["path"] = str(faces)
    (copy / "run.json").write_text(json.dumps(record))
    ended = program("export", copy, tmp_path / "out", "--set", "export.program=false", "--set", "export.samples=1")
    assert ended.code == 0, ended.stderr
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: other\nlicense_name: celeba\n")
    assert "datasets:\n- celeba-aligned\n" in card
    assert "For non-commercial research only." in card
    assert not (tmp_path / "out" / "generator.pt2").exists()


def test_the_terms_are_found_from_another_folder(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run that was given its dataset by a relative path; the same command resumes it."""
    info = json.loads((shutil.copytree(dataset, tmp_path / "faces") / "dataset.json").read_bytes())
    (tmp_path / "faces" / "dataset.json").write_text(json.dumps(info | {"data_set": "celeba-aligned"}))
    train = ("train", "--shards", "faces", "--run", "run", "--batch", 4, "--set", "train.width=4")
    monkeypatch.chdir(tmp_path)
    for images in (8, 16):
        ended = program(*train, "--images", images, "--precision", "fp32")
        assert ended.code == 0, ended.stderr
        assert json.loads(Path("run/run.json").read_bytes())["dataset"]["path"] == str(tmp_path / "faces")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    ended = program("export", "../run", "out", "--set", "export.program=false", "--set", "export.samples=1")
    assert ended.code == 0, ended.stderr
    card = Path("out/README.md").read_text()
    assert card.startswith("---\nlicense: other\nlicense_name: celeba\n")
    assert str(tmp_path) not in card


def test_again_gives_the_same_bytes_and_leaves_files_of_others_alone(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--set", "export.samples=2")
    assert program("export", run, out, *options).code == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for name in ("mine.txt", "generator-int8.onnx"):  # the second: of an earlier export with more options
        (out / name).write_text("mine")
    (out / CONFIG_NAME).unlink()  # as a killed export leaves it
    (out / ".export.partial").mkdir()
    assert program("export", run, out, *options).code == 0
    after = {path.name: path.read_bytes() for path in out.iterdir()}
    assert after == before | {"mine.txt": b"mine"}


def test_dry_run_touches_nothing(run: Path, tmp_path: Path) -> None:
    ended = program("export", run, tmp_path / "out", "--int8", "--dry-run", "--json")
    assert json.loads(ended.stdout)["files"] == [name for name in NAMES if name != "generator-fp16.onnx"]
    assert not (tmp_path / "out").exists()


def test_what_can_not_be_gets_a_sentence(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for arguments, code, said in [
        ((tmp_path / "empty", tmp_path / "out"), 1, "a run writes it with its first checkpoint"),
        ((tmp_path / "none", tmp_path / "out"), 1, "name a run"),
        ((run, run), 2, "is where the generator itself lies"),
        ((run, tmp_path / "file"), 1, "a file is in the way"),
        ((run, tmp_path / "out", "--public"), 2, "--public is for --push"),
        ((run, tmp_path / "out", "--best"), 1, "names no best checkpoint"),
        ((run, tmp_path / "out", "--set", "export.sample=1"), 2, "Did you mean 'samples'?"),
        ((run, tmp_path / "out", "--push", "a/b/c"), 2, "write it as NAMESPACE/NAME"),
        ((run, tmp_path / "out", "--push", ""), 2, "write it as NAMESPACE/NAME"),
    ]:
        ended = program("export", *arguments)
        assert (ended.code, said in ended.stderr) == (code, True), ended.stderr
        assert ended.stdout == ""
    monkeypatch.setattr("facegan.export.onnx._EXTRA", ("onnx", "facegan_has_no_such_package"))
    ended = program("export", run, tmp_path / "out", "--fp16")
    assert ended.code == 2
    assert "pip install 'facegan[onnx]'" in ended.stderr
    assert not (tmp_path / "out").exists()


def test_a_generator_alone_is_exported_with_what_is_known(tmp_path: Path) -> None:
    save_generator(tmp_path / "lone.safetensors", tiny_generator("mlp", 28, 1))
    ended = program("export", tmp_path / "lone.safetensors", tmp_path / "out", "--set", "export.samples=1")
    assert ended.code == 0, ended.stderr
    assert "lies in no run's folder" in ended.stderr
    assert "Nothing was measured of this generator" in (tmp_path / "out" / "README.md").read_text()
    (tmp_path / "eval.json").write_text(json.dumps({"measured": {"generator_sha256": "0"}, "metrics": METRICS}))
    ended = program("export", tmp_path / "lone.safetensors", tmp_path / "out", "--set", "export.samples=1")
    assert "eval.json is of another generator" in ended.stderr
    assert "21.5" not in (tmp_path / "out" / "README.md").read_text()


MINE = """\
from torch import nn
class Branching(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.linear, self.size = nn.Linear(spec.latent, spec.size**2), spec.size
    def forward(self, latents):
        made = self.linear(latents if latents.sum() > 0 else -latents)
        return made.tanh().view(-1, 1, self.size, self.size)
NETS = Branching, Branching
"""


def test_nets_that_can_not_be_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "branching_nets.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    save_generator(tmp_path / "own.safetensors", make_generator(NetSpec("branching_nets:NETS", 28, 1, 8, norm="none")))
    ended = program("export", "own.safetensors", "out", "--quiet", "--trust-code")
    assert ended.code == 1
    *_, error, advice = ended.stderr.splitlines()
    assert error.startswith("error: torch.export can't follow the generator of train.nets = branching_nets:NETS: ")
    assert advice.strip().startswith("Its forward has to be tensor operations")
    assert "def forward" not in ended.stderr
    assert not Path("out").exists()


def test_a_full_disk_leaves_nothing_that_looks_whole(small_disk: Path, tmp_path: Path) -> None:
    save_generator(tmp_path / "large.safetensors", tiny_generator("mlp", 64, 3))
    ended = program("export", tmp_path / "large.safetensors", small_disk / "out", "--quiet")
    assert ended.code == 1
    assert "is full" in ended.stderr
    assert not (small_disk / "out").exists()


@pytest.mark.parametrize("name", ["README.md", "config.json", "samples.png", "generator.safetensors"])
def test_files_of_others_are_not_lost(name: str, run: Path, tmp_path: Path) -> None:
    """Also where their link leads nowhere; and a checkpoint is not exported over its run's own generator."""
    (tmp_path / name).write_text('{"mine": "facegan"}')
    config = ExportConfig(samples=1, program=False)
    with pytest.raises(SettingsError, match=f"holds {name}, and facegan export did not write it: it would be lost"):
        export_generator(run, tmp_path, config)
    assert (tmp_path / name).read_text() == '{"mine": "facegan"}'
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("nowhere")
    with pytest.raises(SettingsError, match="it would be lost"):
        plan_export(run, tmp_path, config)
    checkpoint = shutil.copytree(run, tmp_path / "run") / "checkpoints/000000016"
    checkpoint.mkdir(parents=True)
    shutil.copy(run / "generator.safetensors", checkpoint)
    (checkpoint / "state.json").write_text("{}")
    before = (tmp_path / "run/generator.safetensors").stat().st_mtime_ns
    with pytest.raises(SettingsError, match="it would be lost"):
        export_generator(checkpoint, tmp_path / "run", config)
    assert (tmp_path / "run/generator.safetensors").stat().st_mtime_ns == before


def test_what_was_stopped_is_completed(run: Path, tmp_path: Path) -> None:
    """Wherever among its last steps: without config.json it is not whole, and the same call completes it."""
    config, out = ExportConfig(samples=1, program=False), tmp_path / "out"
    names = {"generator.safetensors", "samples.png", "README.md", "config.json"}
    for line in range(12):
        with stopped_at_line(write._put, line), contextlib.suppress(KeyboardInterrupt):
            export_generator(run, out, config)
        left = {path.name for path in out.iterdir()} if out.exists() else set()
        assert left <= names
        assert "config.json" not in left or left == names
    export_generator(run, out, config)
    assert {path.name for path in out.iterdir()} == names


def test_stopped_before_a_file_was_there_it_leaves_no_empty_folder(run: Path, tmp_path: Path) -> None:
    config, new, old = ExportConfig(samples=1, program=False), tmp_path / "new", tmp_path / "old"
    old.mkdir()
    for out in (new, old):
        with stopped_at_line(write._fill, 1), pytest.raises(KeyboardInterrupt):
            export_generator(run, out, config)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert not list(old.iterdir())


@pytest.mark.parametrize("given", [{"samples": 10**9}, {"samples": 0}, {"compared": 10**9}])
def test_numbers_that_no_export_has(given: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match="it has to be"):
        ExportConfig.of(given)
