"""A recipe: a whole experiment as one flat TOML file, read and checked."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from facegan.config import (
    LENGTHS,
    METHODS,
    EvalConfig,
    ExportConfig,
    PrepConfig,
    Settings,
    TrainConfig,
    defaults_of_nets,
)
from facegan.config.base import in_epochs
from facegan.config.resources import FILES, SECTIONS, EvalResources, FacesConfig, PhotosConfig, ReportConfig, names_of
from facegan.console import shown
from facegan.errors import DamagedFile, SettingsError, one_of, suggest
from facegan.files import atomic_write, disk_errors, packaged, parse_toml
from facegan.plugins import refuse_untrusted, runs_code
from facegan.remote import is_url

# Which recipes there are: those that come with facegan, and files of one's own.

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
    with atomic_write(file) as copy:
        copy.write(data)


# On which line of a recipe a setting stands: what tomllib does not tell.


def lines_of(text: str) -> dict[tuple[str, str], int]:
    """The line, from 1, on which each (section, setting) of a valid TOML text begins; its heading is (section, "").

    A value may go over several lines: a piece ends where what was read since the last one is TOML by itself.
    """
    found: dict[tuple[str, str], int] = {}
    section, piece, begins = "", "", 0
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if not piece and (not line.strip() or line.lstrip().startswith("#")):
            continue
        begins = begins if piece else number
        piece += line + "\n"
        try:
            told = parse_toml(piece, "")
        except DamagedFile:
            continue
        if piece.lstrip().startswith("["):
            section, below = next(iter(told.items()))
            found.setdefault((section, ""), begins)
            told = {}
            if isinstance(below, dict) and below:  # [train.adam]: what follows is none of [train]'s own
                found.setdefault((section, next(iter(below))), begins)
                section = f"{section}."
        for name, value in told.items():
            if section:
                found.setdefault((section, name), begins)
            elif isinstance(value, dict):  # train.images = 64, before any heading
                found.setdefault((name, ""), begins)
                found |= {(name, key): begins for key in value if (name, key) not in found}
            else:
                found.setdefault(("", name), begins)
        piece = ""
    return found


MAX_BYTES = 1_000_000
_SOME_FACES = 1_000_000  # so that a length in epochs can be checked before the faces are counted

# Settings whose value may name code.
_CODE = (("prep", "detector"), ("train", "shards"), ("train", "nets"), ("train", "loss"))

Values = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Recipe:
    """What a recipe says. ``given`` has its values as they were written, with ``--set`` over them, by section."""

    name: str
    file: Path
    heading: str
    given: Values
    lines: dict[tuple[str, str], int]
    photos: PhotosConfig | None
    prep: PrepConfig | None
    faces: FacesConfig | None
    eval_resources: EvalResources | None = None
    measures: EvalConfig | None = None
    export: ExportConfig | None = None
    page: ReportConfig | None = None

    @property
    def is_packaged(self) -> bool:
        return is_packaged(self.file)

    def train(self, faces: int | None = None) -> TrainConfig:
        """The settings of ``[train]``.

        Args:
            faces: how many an epoch shows; any number where no length is given in epochs.

        Raises:
            SettingsError: they can't be; named with their line.
        """
        values = subset_for(TrainConfig, self.given["train"])
        with self.located("train"):
            return TrainConfig.for_method(
                str(values.pop("method", TrainConfig.default("method"))), faces=faces or _SOME_FACES, **values
            )

    @property
    def in_epochs(self) -> tuple[str, ...]:
        """Lengths that hang on the number of faces."""
        values = self.given.get("train", {})
        return tuple(name for name in (*LENGTHS, "milestones") if any(map(in_epochs, _listed(values.get(name)))))

    @property
    def code(self) -> dict[tuple[str, str], str]:
        """Modules and commands that the recipe names, by (section, setting)."""
        named = {place: str(self.given.get(place[0], {}).get(place[1], "")) for place in _CODE}
        return {place: value for place, value in named.items() if runs_code(value)}

    def refuse_untrusted(self, trust_code: bool, *sections: str) -> None:
        """
        Args:
            sections: those that are used; all where none is named.

        Raises:
            SettingsError: names the line and the code, where the file and not ``--set`` or an option names some.
        """
        for (section, name), value in self.code.items():
            if (section, name) in self.lines and section in (sections or SECTIONS):
                refuse_untrusted(f"{self.line(section, name)}{section}.{name}", value, trust_code)

    def line(self, section: str, name: str = "") -> str:
        """``"mine.toml, line 7: "`` where the file says so (not ``--set``), else an empty string."""
        line = self.lines.get((section, name))
        return f"{self.file.name}, line {line}: " if line else ""

    @contextlib.contextmanager
    def located(self, section: str) -> Iterator[None]:
        """Errors of settings tell the line of the setting that they name first, or of their section."""
        try:
            yield
        except SettingsError as error:
            raise SettingsError(self._blamed(section, str(error)) + str(error)) from None

    def _blamed(self, section: str, sentence: str) -> str:
        names = [a.replace("-", "_") or b for a, b in re.findall(rf"--([a-z0-9-]+)|\b{section}\.(\w+)", sentence)]
        first = next((name for name in names if name in self.given[section]), "")
        if first and (section, first) not in self.lines:
            return ""  # of --set, which the sentence shows
        return self.line(section, first)

    def refuse_missing_files(self, but: frozenset[tuple[str, str]] = frozenset()) -> None:
        """
        Args:
            but: (section, setting) that may be missing.

        Raises:
            SettingsError: names the line and the file that is not there.
        """
        for section, names in FILES.items():
            for name in names:
                where = str(self.given.get(section, {}).get(name, ""))
                if (section, name) in but or not is_local(where) or Path(where).exists():
                    continue
                other = f" Name another with --set {section}.{name}=PATH." if self.is_packaged else ""
                raise SettingsError(f"{self.line(section, name)}There is no {shown(where)}.{_near(Path(where))}{other}")


def read_recipe(text: str, sets: Mapping[str, Mapping[str, Any]] | None = None) -> Recipe:
    """The recipe of a packaged name, or of a path to a ``.toml``.

    Args:
        sets: values over those of the file, by section.

    Raises:
        SettingsError: there is none of that name, or what it says can't be: the line, the rule, the nearest name.
    """
    bare = parse_recipe(text)
    given = bare.given
    apply_overrides(bare, sets or {})
    photos = prep = faces = None
    if "prep" in given:
        if not given["prep"].get("source"):
            where = bare.line("prep", "source") or bare.line("prep")
            raise SettingsError(f"{where}[prep] needs a source: the photographs, as facegan prep takes them.")
        with bare.located("prep"):
            photos = PhotosConfig.of(subset_for(PhotosConfig, given["prep"]))
            prep = PrepConfig.of(subset_for(PrepConfig, given["prep"]))
    if "train" in given:
        with bare.located("train"):
            faces = FacesConfig.of(subset_for(FacesConfig, given["train"]))
            if bool(faces.shards) == bool(photos):
                raise SettingsError(_which_faces(faces.shards))
        bare.train()
    eval_resources = measures = None
    if "eval" in given:
        if faces is None:
            raise SettingsError(f"{bare.line('eval')}[eval] measures what [train] made, and there is no [train].")
        with bare.located("eval"):
            eval_resources = EvalResources.of(subset_for(EvalResources, given["eval"]))
            measures = EvalConfig.of(subset_for(EvalConfig, given["eval"]))
    export = None
    if "export" in given:
        if faces is None:
            raise SettingsError(f"{bare.line('export')}[export] writes what [train] made, and there is no [train].")
        with bare.located("export"):
            export = ExportConfig.of(given["export"])
    page = None
    if "report" in given:
        if faces is None:
            raise SettingsError(f"{bare.line('report')}[report] shows what [train] made, and there is no [train].")
        with bare.located("report"):
            page = ReportConfig.of(given["report"])
    return replace(
        bare,
        photos=photos,
        prep=prep,
        faces=faces,
        eval_resources=eval_resources,
        measures=measures,
        export=export,
        page=page,
    )


def is_local(where: str) -> bool:
    """Whether a source or file is one of this machine's, named alone: no URL, pattern, pipe or drawn portraits."""
    if not where or is_url(where) or re.match(r"(torchvision|portraits|pipe):", where):
        return False
    return Path(where).exists() or not re.search(r"[{*?\[]", where)


def defaults_of(recipe: Recipe, section: str) -> dict[str, Any]:
    """What each setting of a section is where the recipe does not say: by the method or the nets where they set it."""
    values = {name: config.default(name) for config in SECTIONS[section] for name in config.model_fields}
    if section == "train":
        train = recipe.train()
        values |= {**defaults_of_nets(train.nets), **METHODS[train.method]}
    return values


def parse_recipe(text: str) -> Recipe:
    """What the file of a recipe says, its names checked, and nothing made of it yet; raises as `read_recipe`."""
    file = find_recipe(text)
    written = _read_text(file)
    given, lines = _parsed(written, file.name), lines_of(written)
    _refuse_unknown(given, lines, file.name)
    return Recipe(file.stem, file, _heading(written), given, lines, None, None, None)


def apply_overrides(recipe: Recipe, sets: Mapping[str, Mapping[str, Any]]) -> None:
    """Values of ``--set`` in the place of the recipe's.

    Raises:
        SettingsError: there is no such section or setting.
    """
    for section, values in sets.items():
        _refuse_section(section, f"--set {section}.{next(iter(values), '')}: ")
        if section not in recipe.given:
            raise SettingsError(f"--set {section}.{next(iter(values))}: {recipe.file.name} has no [{section}].")
        for name, value in values.items():
            _refuse_name(section, name, f"--set {section}.{name}={value}: ")
            recipe.given[section][name] = value
            recipe.lines.pop((section, name), None)


def _which_faces(shards: str) -> str:
    if shards:
        return (
            f"train.shards = {shown(shards)} does not go with [prep], which makes the dataset.\n"
            "Leave one of them out; prep.out says where the dataset of [prep] lies."
        )
    return "[train] has no faces: name a dataset with train.shards, or photographs in a section [prep]."


def _read_text(file: Path) -> str:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise SettingsError(f"The recipe {file} can't be read: {error.strerror or error}.") from None
    try:
        if len(data) > MAX_BYTES:
            raise ValueError
        return data.decode("utf-8-sig")
    except ValueError:
        raise SettingsError(f"{file} is no recipe: a recipe is a TOML file of a page or two.") from None


def _parsed(text: str, file: str) -> Values:
    try:
        given = parse_toml(text, file)
    except DamagedFile as error:
        found = re.fullmatch(r"(.*) \(at line (\d+), column \d+\)", error.why)
        where, why = (f", line {found[2]}", found[1]) if found else ("", error.why)
        raise SettingsError(f"{file}{where}: this is no TOML: {shown(why)}.") from None
    if not given:
        raise SettingsError(f"{file} says nothing: a recipe has the sections [prep] and [train], or one of them.")
    return given


def _refuse_unknown(given: Values, lines: dict[tuple[str, str], int], file: str) -> None:
    for section, values in given.items():
        where = f"{file}, line {lines.get(('', section)) or lines[section, '']}: "
        _refuse_section(section, where, is_section=isinstance(values, dict))
        for name in values:
            _refuse_name(section, name, f"{file}, line {lines[section, name]}: ")


def _refuse_section(section: str, where: str, is_section: bool = True) -> None:
    if not is_section:
        raise SettingsError(f"{where}'{shown(section)}' stands in no section: put it below [prep] or [train].")
    if section not in SECTIONS:
        raise SettingsError(
            f"{where}There is no section [{shown(section)}]: choose {one_of(SECTIONS)}.{suggest(section, SECTIONS)}"
        )


def _refuse_name(section: str, name: str, where: str) -> None:
    known = names_of(section)
    if name in known:
        return
    elsewhere = next((f" It belongs in [{other}]." for other in SECTIONS if name in names_of(other)), "")
    raise SettingsError(
        f"{where}There is no setting '{shown(name)}' in [{section}].{elsewhere or suggest(name, known)}"
    )


def subset_for(config: type[Settings], values: dict[str, Any]) -> dict[str, Any]:
    """Those of a section's values that belong to one of its classes."""
    return {name: value for name, value in values.items() if name in config.model_fields}


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _heading(text: str) -> str:
    """The comment that a recipe begins with, without its marks."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" ").rstrip())
    return "\n".join(lines).strip("\n")


def _near(path: Path) -> str:
    return suggest(path.name, [beside.name for beside in path.parent.iterdir()]) if path.parent.is_dir() else ""


def number_or_auto(text: str) -> int | None:
    """``auto`` is None, as the rooms have it."""
    return None if text == "auto" else int(text)
