"""Which recipes there are: those that come with facegan, and files of one's own."""

from __future__ import annotations

from pathlib import Path

from facegan.console import shown
from facegan.errors import SettingsError, one_of, suggest
from facegan.files import disk_errors, packaged, replacing

_FOLDER = "pipelines"


def packaged_recipes() -> dict[str, Path]:
    """The recipes that come with facegan, by name."""
    return {path.stem: path for path in sorted(packaged(_FOLDER).glob("*.toml"))}


def is_packaged(file: Path) -> bool:
    return file.resolve().parent == packaged(_FOLDER).resolve()


def find_recipe(text: str) -> Path:
    """The file of a recipe: a packaged one by name, any by a path that ends in ``.toml``.

    Raises:
        SettingsError: there is none; the nearest name.
    """
    known = packaged_recipes()
    if text in known:
        return known[text]
    path = Path(text)
    if path.suffix != ".toml":
        own = f" Did you mean {text}.toml?" if Path(f"{text}.toml").is_file() else suggest(text, known)
        raise SettingsError(
            f"There is no recipe '{shown(text)}': choose {one_of(known)},\nor name a file that ends in .toml.{own}"
        )
    if not path.is_file():
        beside = [other.name for other in path.parent.glob("*.toml")] if path.parent.is_dir() else []
        near = suggest(path.name, beside) or suggest(path.stem, known)
        raise SettingsError(f"There is no recipe {shown(path)}.{near}")
    return path


def copy_recipe(name: str, file: Path) -> None:
    """A copy of a recipe, to be changed.

    Raises:
        SettingsError: there is no such recipe; ``file`` is there already, or is not named as recipes are.
        DiskError: ``file`` can't be written.
    """
    data = find_recipe(name).read_bytes()
    if file.suffix != ".toml":
        raise SettingsError(
            f"{file}: recipes are files that end in .toml. Call it {file.with_name(file.name + '.toml')}"
        )
    if file.exists():
        raise SettingsError(f"{file} is there already. Choose another name.")
    with disk_errors(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as copy:
        copy.write(data)
