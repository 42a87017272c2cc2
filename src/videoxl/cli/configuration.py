"""The configuration file ``videoxl.toml``: defaults of options, and short names of models.

    [defaults]                  # of every command that has the option
    model = "xl2"
    device = "cuda:1"

    [ask]                       # of one command; [eval.niah] of one that lies in another
    max-new-tokens = 64

    [aliases]
    xl2 = "BAAI/Video-XL-2"

The user's file is read first, then the one of the working directory, whose settings win. ``--config`` names another one
and leaves both out. What the command line says wins over all.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from platformdirs import user_config_path

from videoxl.config import EMBEDDED
from videoxl.errors import ConfigurationError, did_you_mean

NAME = "videoxl.toml"
DEFAULTS, ALIASES = "defaults", "aliases"
ONLY_TRUSTED = ("allow_url",)
"""Options that the file of a working directory may not set: the folder may be a stranger's."""
Table = dict[str, Any]


@dataclass(frozen=True)
class Configuration:
    """What the files say."""

    files: tuple[Path, ...] = ()
    commands: Table = field(default_factory=dict)
    """Command -> option -> value, as typer takes it for defaults; commands in commands lie one level deeper."""
    aliases: dict[str, str] = field(default_factory=dict)

    def model(self, name: str) -> str:
        """The model that a short name stands for; any other name as it is."""
        return self.aliases.get(name, name)

    def default_of(self, option: str) -> object:
        """A value that some command has for an option; None for none."""
        found = [options[option] for options in self.commands.values() if option in options]
        return found[0] if found else None


class _Current:
    """The configuration of the command that runs."""

    value = Configuration()


def current() -> Configuration:
    """The configuration of the command that runs."""
    return _Current.value


def use(path: str | None, group: Any) -> Configuration:
    """Read the files and make them the current configuration. ``group``: typer's group of all commands.

    Raises :class:`ConfigurationError` for a file that cannot be read, and for a name that no command has.
    """
    _Current.value = Configuration()
    files = places() if path is None else (Path(path),)
    read = Configuration()
    for number, file in enumerate(files):
        if path is not None or file.is_file():
            read = _joined(read, _read(file, group, trusted=path is not None or number == 0))
    _Current.value = read
    return read


def places() -> tuple[Path, Path]:
    """Where files are looked for: the user's, and the working directory's."""
    return user_config_path("videoxl") / NAME, Path(NAME)


def _read(file: Path, group: Any, *, trusted: bool) -> Configuration:
    try:
        said = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file} is not UTF-8 at byte {error.start}: save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{file} is not TOML: {error}") from None
    aliases = _aliases(file, said.pop(ALIASES, {}))
    defaults = _table(file, DEFAULTS, said.pop(DEFAULTS, {}))
    known = {name for _, command in _commands(group) for name in _options(command)}
    _check_names(file, DEFAULTS, defaults, known)
    commands = _of_group(file, "", said, group, defaults)
    if not trusted:
        _refuse_untrusted(file, commands)
    return Configuration((file,), commands, aliases)


def _of_group(file: Path, path: str, said: Table, group: Any, defaults: Table) -> Table:
    """Defaults for all commands of a group: those of every command, and those of its own table."""
    _check_names(file, path, said, {*group.commands, *([] if path else (DEFAULTS, ALIASES))})
    found: Table = {}
    for name, command in group.commands.items():
        own = _table(file, f"{path}{name}", said.get(name, {}))
        if hasattr(command, "commands"):
            found[name] = _of_group(file, f"{path}{name}.", own, command, defaults)
            continue
        options = _options(command)
        _check_names(file, f"{path}{name}", own, set(options))
        shared = {options[key]: value for key, value in _plain(defaults).items() if key in options}
        found[name] = shared | {options[key]: value for key, value in _plain(own).items()}
    return found


def _options(command: Any) -> dict[str, str]:
    """Name of an option in the file -> name of its parameter."""
    names: dict[str, str] = {}
    for one in getattr(command, "params", ()):
        if one.param_type_name == "option" and one.name != "help":
            names |= {_key(flag): one.name for flag in one.opts if flag.startswith("--")}
    return names


def _commands(group: Any) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command)
        else:
            yield name, command


def _check_names(file: Path, table: str, said: Mapping[str, object], known: set[str]) -> None:
    for name in said:
        if _key(name) not in {_key(one) for one in known}:
            where = f" in [{table.rstrip('.')}]" if table else ""
            raise ConfigurationError(f"{file}{where}: unknown name {name!r}{did_you_mean(_key(name), sorted(known))}")


def _table(file: Path, name: str, value: object) -> Table:
    if not isinstance(value, dict):
        raise ConfigurationError(f"{file}: {name} must be a table, [{name}] with a line for each setting")
    return value


def _aliases(file: Path, said: object) -> dict[str, str]:
    aliases = _table(file, ALIASES, said)
    for name, model in aliases.items():
        if not isinstance(model, str) or not model:
            raise ConfigurationError(f"{file} in [{ALIASES}]: {name} must be the name of a model, got {model!r}")
        if name in EMBEDDED:
            raise ConfigurationError(f"{file} in [{ALIASES}]: {name} is an embedded model; choose another name")
    return dict(aliases)


def _refuse_untrusted(file: Path, commands: Table) -> None:
    for options in commands.values():
        for name in ONLY_TRUSTED:
            if isinstance(options, dict) and options.get(name):
                raise ConfigurationError(
                    f"{file}: {name.replace('_', '-')} is not taken from a working directory: set it in {places()[0]}"
                )


def _joined(first: Configuration, second: Configuration) -> Configuration:
    """Both, and the second where they differ."""
    return Configuration(
        (*first.files, *second.files), _over(first.commands, second.commands), first.aliases | second.aliases
    )


def _over(below: Table, above: Table) -> Table:
    tables = {k: _over(below.get(k, {}), v) for k, v in above.items() if isinstance(v, dict)}
    return {**below, **above, **tables}


def _key(name: str) -> str:
    return name.lstrip("-").replace("-", "_")


def _plain(said: Table) -> Table:
    return {_key(name): value for name, value in said.items()}
