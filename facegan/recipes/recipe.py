"""A recipe: a whole experiment as one flat TOML file, read and checked; fingerprints of the files that it names."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import itertools
import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic_core import PydanticUndefined

from facegan.config import METHODS, Settings, TrainConfig, defaults_of_nets
from facegan.config.resources import NO_ATTRIBUTES, PATHS, SECTIONS, FacesConfig, names_of
from facegan.console import shown
from facegan.errors import DamagedFile, FaceganError, SettingsError, SourceError, one_of, suggest
from facegan.files import files_below, make_folder, packaged, parse_toml, write_bytes
from facegan.plugins import refuse_untrusted, runs_code
from facegan.remote import is_url

if TYPE_CHECKING:
    from facegan.report.runs import Run
    from facegan.report.sections import Baseline

S = TypeVar("S", bound=Settings)
Values = dict[str, dict[str, Any]]  # settings by section and name
Lines = dict[tuple[str, str], int]

MISSING = ""  # the fingerprint of a path with nothing there
MAX_LENGTH = 1_000_000
_FOLDER = "pipelines"
_SOME_FACES = 1_000_000  # so that a length in epochs can be checked before the faces are counted
_CODE = (("prep", "detector"), ("train", "shards"), ("train", "nets"), ("train", "loss"))  # may name code


def packaged_recipes() -> dict[str, Path]:
    """The recipes that come with facegan, by name."""
    return {path.stem: path for path in sorted(packaged(_FOLDER).glob("*.toml"))}


def find_recipe(text: str) -> Path:
    """The file of a recipe: a packaged one by name, any other by a path that ends in ``.toml``."""
    known, path = packaged_recipes(), Path(text)
    if text in known or (path.suffix == ".toml" and path.is_file()):
        return known.get(text, path)
    others = [other.name for other in path.parent.glob("*.toml")] if path.parent.is_dir() else []
    near = suggest(path.name, [*known, *others])
    raise SettingsError(
        f"There is no recipe '{shown(text)}'. Choose {one_of(known)},\nor name a file that ends in .toml.{near}"
    )


def copy_recipe(name: str, file: Path) -> None:
    """Raises SettingsError if there is no such recipe, or ``file`` exists or does not end in ``.toml``."""
    data = find_recipe(name).read_bytes()
    if file.suffix != ".toml":
        better = file.with_name(f"{file.name}.toml")
        raise SettingsError(f"{file}: the name of a recipe ends in .toml. Call it {better}")
    if file.exists():
        raise SettingsError(f"{file} exists. Choose another name.")
    make_folder(file.parent)
    write_bytes(file, data)


@dataclass(frozen=True)
class Recipe:
    """A recipe with checked names; `read_recipe` has checked its values, too."""

    name: str
    file: Path
    heading: str  # the comment at the top
    values: Values  # as they are written, with ``--set`` over them
    lines: Lines  # of the settings that the file decides: without those that ``--set`` overrides

    @property
    def is_packaged(self) -> bool:
        return self.file.resolve().parent == packaged(_FOLDER).resolve()

    def settings(self, config: type[S]) -> S:
        """Raises SettingsError, which names the line of the invalid value."""
        with self.located(config.section):
            return config.of(self._values_of(config))

    def train(self, faces: int | None = None) -> TrainConfig:
        """As `settings`. ``faces``: of an epoch, for lengths in epochs."""
        with self.located("train"):
            return TrainConfig.of(self._values_of(TrainConfig), faces=faces or _SOME_FACES)

    def _values_of(self, config: type[Settings]) -> dict[str, Any]:
        return {name: value for name, value in self.values[config.section].items() if name in config.model_fields}

    @property
    def in_epochs(self) -> tuple[str, ...]:
        """Lengths that depend on the number of faces."""
        return TrainConfig.lengths_in_epochs(self.values.get("train", {}))

    @property
    def code(self) -> dict[tuple[str, str], str]:
        """Modules and commands that the recipe names, by section and setting."""
        named = {(section, name): str(self.values.get(section, {}).get(name, "")) for section, name in _CODE}
        return {key: value for key, value in named.items() if runs_code(value)}

    def refuse_untrusted(self, trust_code: bool, *sections: str) -> None:
        """Raise SettingsError if the file names code in one of ``sections`` (all if none), and no option does."""
        for (section, name), value in self.code.items():
            if (section, name) in self.lines and section in (sections or SECTIONS):
                refuse_untrusted(f"{self.line(section, name)}{section}.{name}", value, trust_code)

    def refuse_missing_files(self, *, need_source: bool = True) -> None:
        """Raise SettingsError if a file of this machine does not exist."""
        for section, name in ((section, name) for section, names in PATHS.items() for name in names):
            path = str(self.values.get(section, {}).get(name, ""))
            is_idle = (name == "source" and not need_source) or (name == "attributes" and path == NO_ATTRIBUTES)
            if is_idle or not is_local(path) or Path(path).exists():
                continue
            folder = Path(path).parent
            near = suggest(Path(path).name, [other.name for other in folder.iterdir()] if folder.is_dir() else [])
            other = f" Name another with --set {section}.{name}=PATH." if self.is_packaged else ""
            raise SettingsError(f"{self.line(section, name)}There is no {shown(path)}.{near}{other}")

    def override(self, sets: Mapping[str, Mapping[str, Any]]) -> Recipe:
        """The recipe with other values, by section; raises SettingsError if it has no such section or setting."""
        values, lines = dict(self.values), dict(self.lines)
        for section, given in sets.items():
            option = f"--set {section}.{next(iter(given), '')}"
            _refuse_section(section, f"{option}: ")
            if section not in values:
                raise SettingsError(f"{option}: {self.file.name} has no [{section}].")
            for name, value in given.items():
                _refuse_name(section, name, f"--set {section}.{name}={value}: ")
                lines.pop((section, name), None)
            values[section] = {**values[section], **given}
        return replace(self, values=values, lines=lines)

    def line(self, section: str, name: str = "") -> str:
        """``"mine.toml, line 7: "`` for a setting of the file, else an empty string."""
        line = self.lines.get((section, name))
        return f"{self.file.name}, line {line}: " if line else ""

    @contextlib.contextmanager
    def located(self, section: str) -> Iterator[None]:
        """Prepends to errors the line of the first setting that they name, or of the section."""
        try:
            yield
        except SettingsError as error:
            found = re.findall(rf"--([a-z0-9-]+)|\b{section}\.(\w+)", str(error))
            names = [option.replace("-", "_") or name for option, name in found]
            first = next((name for name in names if name in self.values[section]), "")
            raise SettingsError(self.line(section, first) + str(error)) from None


def read_recipe(text: str, sets: Mapping[str, Mapping[str, Any]] | None = None) -> Recipe:
    """The recipe of a packaged name, or of a path to a ``.toml``, with all its settings checked.

    ``sets`` are values over those of the file, by section. A SettingsError names the line, the rule and the closest
    name.
    """
    recipe = _parse(text).override(sets or {})
    for section, configs in SECTIONS.items():
        if section not in recipe.values:
            continue
        if section == "prep" and not recipe.values["prep"].get("source"):
            line = recipe.line("prep", "source") or recipe.line("prep")
            raise SettingsError(f"{line}[prep] needs a source: the photographs, as facegan prep takes them.")
        if section not in ("prep", "train") and "train" not in recipe.values:
            raise SettingsError(f"{recipe.line(section)}[{section}] needs the generator of a section [train].")
        for config in configs:
            recipe.train() if config is TrainConfig else recipe.settings(config)
    if "train" in recipe.values:
        with recipe.located("train"):
            if bool(recipe.settings(FacesConfig).shards) == ("prep" in recipe.values):
                raise SettingsError("[train] needs one source of faces: either train.shards, or a section [prep].")
    return recipe


@contextlib.contextmanager
def open_section(text: str, section: str, overrides: Mapping[str, Any], trust_code: bool) -> Iterator[dict[str, Any]]:
    """A section's settings by name, with ``overrides`` over them. Errors raised inside name the recipe's line."""
    recipe = _parse(text)
    if section not in recipe.values:
        raise SettingsError(f"--recipe {text} has no section [{section}], which facegan {section} needs.")
    recipe = recipe.override({section: overrides})
    recipe.refuse_untrusted(trust_code, section)
    with recipe.located(section):
        yield dict(recipe.values[section])


@dataclass(frozen=True)
class SettingRow:
    """One setting of a recipe."""

    section: str
    name: str
    value: Any  # as it will be used; lengths in epochs as they are written
    default: Any  # that of the method or the nets, if they have one
    unit: str
    meaning: str
    set: bool  # whether the recipe names it

    def __str__(self) -> str:
        default = "" if self.value == self.default else f"default {_text(self.default)}"
        details = "; ".join(filter(None, [self.unit, default]))
        return f"{self.name} = {_text(self.value)}{f' ({details})' if details else ''} — {self.meaning}"


def settings_table(recipe: Recipe) -> list[SettingRow]:
    """All settings of the recipe's sections."""
    rows = []
    for config in (config for section, configs in SECTIONS.items() if section in recipe.values for config in configs):
        section, written = config.section, recipe.values[config.section]
        settings = recipe.train() if config is TrainConfig else recipe.settings(config)
        values = settings.model_dump(mode="json")
        defaults = {name: config.default(name) for name in config.model_fields}
        if isinstance(settings, TrainConfig):
            values |= {name: written[name] for name in recipe.in_epochs}
            values["images"] = settings.time or values["images"]
            defaults |= {**defaults_of_nets(settings.nets), **METHODS[settings.method]}
        for name, default in defaults.items():
            default = None if default is PydanticUndefined else list(default) if default == () else default
            unit, meaning = config.unit(name), config.describe(name)
            rows.append(SettingRow(section, name, values[name], default, unit, meaning, name in written))
    return rows


def _text(value: Any) -> str:
    if value is None or value in ("", []):
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def recipe_of_run(run: Run) -> Baseline | None:
    """The settings of the recipe that the run's command names, as it is now; None if there is none or it is invalid."""
    try:
        words = iter(shlex.split(str(run.record.get("command", "")))[1:])
        is_run = next(words, "") == "run"  # facegan run RECIPE; facegan train names it with --recipe
        for word in words:
            if word == "--recipe" or (is_run and not word.startswith("-")):
                return baseline_of_recipe(read_recipe(next(words) if word == "--recipe" else word), run)
            if word in ("--set", "--to"):
                next(words)
    except (FaceganError, ValueError, StopIteration):
        pass
    return None


def baseline_of_recipe(recipe: Recipe, run: Run) -> Baseline:
    from facegan.report.sections import Baseline

    config = recipe.train(run.record["dataset"]["faces"])
    if config.time:  # the number that was measured for it is no difference
        config = config.with_images(run.settings["images"])
    return Baseline(recipe.name, json.loads(config.model_dump_json()))


def is_local(path: str) -> bool:
    """Whether a source or file is one path of this machine: no URL, pattern, pipe or drawn portraits."""
    if not path or is_url(path) or re.match(r"(torchvision|portraits|pipe):", path):
        return False
    return Path(path).exists() or not re.search(r"[{*?\[]", path)


def lines_of(text: str) -> Lines:
    """The line, from 1, on which each (section, setting) of a valid TOML text starts; its heading is (section, "").

    tomllib does not report lines. A value can span several: a piece ends where the text since the last one is valid
    TOML.
    """
    found: Lines = {}
    section, piece, first = "", "", 0
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        first = first if piece else number
        piece += line + "\n"
        try:
            values = parse_toml(piece, "")
        except DamagedFile:
            continue
        if piece.lstrip().startswith("["):
            section, values = next(iter(values)), {"": first}
        for name in values:
            found.setdefault((section, name), first)
        piece = ""
    return found


def _parse(text: str) -> Recipe:
    """The recipe with its names checked, but not its values."""
    file = find_recipe(text)
    try:
        written = file.read_bytes().decode("utf-8-sig", "replace")
    except OSError as error:
        raise SettingsError(f"{file} could not be read: {error.strerror or error}.") from None
    if len(written) > MAX_LENGTH or "\N{REPLACEMENT CHARACTER}" in written:
        raise SettingsError(f"{file} is not a recipe. A recipe is a TOML file of a page or two.")
    try:
        values = parse_toml(written, file.name)
    except DamagedFile as error:
        found = re.fullmatch(r"(.*) \(at line (\d+), column \d+\)", error.why)
        line, why = (f", line {found[2]}", found[1]) if found else ("", error.why)
        raise SettingsError(f"{file.name}{line}: invalid TOML: {shown(why)}.") from None
    if not values:
        raise SettingsError(f"{file.name} is empty. A recipe has a section [prep], [train], or both.")
    found, lines = lines_of(written), Lines()
    for section, settings in values.items():
        lines[section, ""] = heading = found.get((section, "")) or found.get(("", section)) or 1
        if not isinstance(settings, dict):
            where = f"{file.name}, line {heading}"
            raise SettingsError(f"{where}: '{shown(section)}' is in no section. Put it below [prep] or [train].")
        _refuse_section(section, f"{file.name}, line {heading}: ")
        for name in settings:
            lines[section, name] = found.get((section, name), heading)  # a dotted name has its section's line
            _refuse_name(section, name, f"{file.name}, line {lines[section, name]}: ")
    comment = itertools.takewhile(lambda line: line.startswith("#"), written.splitlines())
    heading = "\n".join(line.removeprefix("#").removeprefix(" ").rstrip() for line in comment)
    return Recipe(file.stem, file, heading.strip("\n"), values, lines)


def _refuse_section(section: str, where: str) -> None:
    if section not in SECTIONS:
        near = suggest(section, SECTIONS)
        raise SettingsError(f"{where}There is no section [{shown(section)}]. Choose {one_of(SECTIONS)}.{near}")


def _refuse_name(section: str, name: str, where: str) -> None:
    known = names_of(section)
    if name not in known:
        other = next((f" It belongs in [{other}]." for other in SECTIONS if name in names_of(other)), "")
        raise SettingsError(
            f"{where}There is no setting '{shown(name)}' in [{section}].{other or suggest(name, known)}"
        )


def fingerprint(path: str | Path, leave_out: Path | None = None) -> str:
    """Names, sizes and times of a file, a folder with everything below it, or a pattern of files; `MISSING` if none.

    It changes with any file that is added, removed, renamed or rewritten; not with files at URLs or of
    ``torchvision:``, nor with a file that is changed with its size and time kept. ``leave_out`` is a folder inside to
    ignore: the dataset that is made from the others.
    """
    if is_local(path := str(path)):
        return _of_folder(path, leave_out) if Path(path).is_dir() else _of_file(path)
    if is_url(path) or ":" in path.partition("/")[0]:
        return "not looked at"
    from braceexpand import braceexpand

    with contextlib.suppress(ValueError):
        files = [found for text in braceexpand(path) for found in sorted(glob.glob(text))]  # noqa: PTH207 - as given
        return " ".join(map(_of_file, files))
    return MISSING


def size_and_time(path: str | Path) -> list[int]:
    """Empty if there is no such file."""
    with contextlib.suppress(OSError):
        status = Path(path).stat()
        return [status.st_size, status.st_mtime_ns]
    return []


def _of_file(path: str) -> str:
    return " ".join(map(str, size_and_time(path)))


def _of_folder(top: str, leave_out: Path | None) -> str:
    """The digests are added up: files come in any order, and a million of them need not be sorted."""
    ignored = os.fsencode(os.path.realpath(leave_out)) if leave_out else None
    count = total = 0
    with contextlib.suppress(OSError, SourceError):  # prep reports the problem
        for name, entry in files_below(os.fsencode(top), lambda folder, _: os.path.realpath(folder) != ignored):
            status = b""
            with contextlib.suppress(OSError):  # a dangling link
                status = b"%d %d" % (entry.stat().st_size, entry.stat().st_mtime_ns)
            digest = hashlib.blake2b(name + b"\0" + status, digest_size=8).digest()
            count, total = count + 1, total + int.from_bytes(digest) & (1 << 64) - 1
    return f"{count} files, {total:016x}"
