"""From flags and a file to settings: defaults < --config FILE < flags. Imports no torch.

Every flag is a key of the file under the same name (`net_size` or `net-size`); a key that is none is named.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

EPILOG = "Exit codes: 0 done, 1 failed, 2 wrong use or bad input, 130 interrupted (what was saved stays)."
HERE_ONLY = {"config", "debug", "json"}  # about this call, not about the work


def parse(module: Any, name: str, argv: Sequence[str]) -> Any:
    """The settings of a command: `module.SETTINGS` filled from a file and flags.

    `module.base(settings)`, where there is one, names a file to read first when --config is not given.

    Raises:
        SystemExit: after --help, or for flags that do not parse (2).
        ValueError, FileNotFoundError: for a file that cannot be used.
    """
    import tyro
    from tyro.conf import PositionalMetavarFromFieldName

    cls, args = module.SETTINGS, _placed(module.SETTINGS, _nones(argv))
    about = (module.__doc__ or "").strip().replace("\noneprior ", "\n\noneprior ")  # or it is joined to a paragraph

    def read(default: Any) -> Any:
        text, marks = f"{about}\n\n{EPILOG}", (PositionalMetavarFromFieldName,)
        return tyro.cli(cls, args=args, prog=f"oneprior {name}", description=text, default=default, config=marks)

    file = _value(args, "--config")
    settings = read(from_file(cls, Path(file)) if file is not None else None)
    if file is None and (base := getattr(module, "base", lambda _: None)(settings)):
        settings = read(from_file(cls, base))
    return settings


def from_file(cls: type, path: Path) -> Any:
    """Settings of class `cls` from a YAML file.

    Raises:
        FileNotFoundError: when it is not there.
        ValueError: when it is not YAML, has an unknown key, or a value of the wrong kind; the key is named.
    """
    import yaml

    if not path.is_file():
        raise FileNotFoundError(f"no settings file {path}")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ValueError(f"{path} is not YAML: {' '.join(str(e).split())}") from e
    if not isinstance(data, Mapping):
        raise ValueError(f"{path} holds {type(data).__name__}; lines of 'name: value' were expected")
    given = {str(k).replace("-", "_"): v for k, v in data.items()}
    known = sorted(set(names(cls)) - HERE_ONLY)
    if unknown := [k for k in given if k not in known]:
        close = get_close_matches(unknown[0], known, 1)
        hint = f" (did you mean {close[0]}?)" if close else f"; known are {', '.join(known)}"
        raise ValueError(f"{path}: unknown key{'s' * (len(unknown) > 1)} {', '.join(unknown)}{hint}")
    try:
        return _filled(cls, given)
    except (ValueError, TypeError) as e:
        raise ValueError(f"{path}: {e}") from e


def names(cls: type) -> list[str]:
    """The names of all settings, those of nested dataclasses too."""
    hints = get_type_hints(cls)
    return [n for f in fields(cls) for n in (names(hints[f.name]) if is_dataclass(hints[f.name]) else [f.name])]


def flat(settings: Any) -> dict[str, Any]:
    """Settings as YAML and JSON hold them, under the names of the flags."""
    out: dict[str, Any] = {}
    for f in fields(settings):
        value = getattr(settings, f.name)
        if is_dataclass(value):
            out |= flat(value)
        else:
            out[f.name] = list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
    return out


def seeds_of(text: str | None, n: int | None, first: int = 0) -> list[int]:
    """Seeds from "0-63", "1,5,9" or "0-3,10"; without a text n of them (16) from `first` on.

    Raises:
        ValueError: for anything else, or a number of seeds that is not n.
    """
    if text is None:
        if n is not None and n < 1:
            raise ValueError(f"--n {n}: at least one was expected")
        return list(range(first, first + (16 if n is None else n)))
    out: list[int] = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()):
            raise ValueError(
                f"--seeds {text}: numbers and ranges such as 0-63 or 1,5,9 were expected; '{part}' is none"
            )
        out += range(int(low), int(high or low) + 1)
    if not out or len(set(out)) < len(out):
        raise ValueError(f"--seeds {text}: each seed once, and at least one, was expected")
    if n is not None and n != len(out):
        raise ValueError(f"--n {n} and --seeds {text} disagree: these are {len(out)} seeds; give one of the two")
    return out


def arguments(flag: str, cls: type, texts: Sequence[str], taken: Iterable[str] = ()) -> dict[str, Any]:
    """Fields of a dataclass from texts such as "kappa=2" or "channels=32,64"; a value of none is None.

    taken: fields that other flags decide.

    Raises:
        ValueError: a text without =, a name that is no field (the fields are named), given twice, or decided
            elsewhere, or a value of the wrong kind.
    """
    hints = {f.name: h for f in fields(cls) if f.init and (h := get_type_hints(cls)[f.name]) and f.name not in taken}
    out: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.replace("-", "_")
        if not equals or name not in hints or name in out:
            why = "comes twice" if name in out else f"{cls.__name__} takes {', '.join(hints) or 'none'}"
            raise ValueError(f"{flag} {text}: NAME=VALUE was expected; {why}")
        many = get_origin(hints[name]) is tuple
        try:
            out[name] = _fit(name, hints[name], _numbers(value) if many else None if value == "none" else value)
        except ValueError as e:
            raise ValueError(f"{flag} {text}: {e}") from e
    return out


def _numbers(text: str) -> list[str]:
    return [part for part in text.strip("()").split(",") if part.strip()]


def _filled(cls: type, given: Mapping[str, Any]) -> Any:
    import tyro

    hints, values = get_type_hints(cls), {}
    for f in fields(cls):
        if is_dataclass(hints[f.name]):
            values[f.name] = _filled(hints[f.name], given)  # type: ignore[arg-type]
        elif f.name in given:
            values[f.name] = _fit(f.name, hints[f.name], given[f.name])
        elif f.default is MISSING and f.default_factory is MISSING:
            values[f.name] = tyro.MISSING  # to be given as a flag
    return cls(**values)


def _fit(name: str, hint: Any, value: Any) -> Any:
    """A value from YAML as the type a field declares."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        for kind in args:
            try:
                return _fit(name, kind, value)
            except ValueError:
                continue
    elif origin is Literal:
        if value in args:
            return value
    elif origin is tuple:
        if isinstance(value, list | tuple) and (args[-1] is Ellipsis or len(args) == len(value)):
            kinds = [args[0]] * len(value) if args[-1] is Ellipsis else args
            return tuple(_fit(name, k, v) for k, v in zip(kinds, value, strict=True))
    elif hint is type(None):
        if value is None:
            return None
    elif hint is bool:
        if isinstance(value, bool):
            return value
    elif hint in (int, float):
        try:  # YAML takes 3e-4 for a text
            number = float(value) if not isinstance(value, bool) else None
        except (TypeError, ValueError):
            number = None
        if number is not None and (hint is float or number.is_integer()):
            return hint(number)
    elif hint in (str, Path) and isinstance(value, str | int | float) and not isinstance(value, bool):
        return hint(str(value))
    kind = str(args) if origin is Literal else hint.__name__ if isinstance(hint, type) else str(hint)
    raise ValueError(f"{name}: {value!r} does not fit; {kind} was expected")


def _nones(argv: Sequence[str]) -> list[str]:
    """`--samples none` is what people type for None."""
    return ["None" if a == "none" and i and argv[i - 1].startswith("--") else a for i, a in enumerate(argv)]


def _placed(cls: type, argv: list[str]) -> list[str]:
    """`--prior NAME` says the same as NAME in its place, the first."""
    from tyro.conf import Positional

    hints = get_type_hints(cls, include_extras=True)
    marks = get_args(Positional[str])[1:]
    flag = next((f"--{f.name}" for f in fields(cls) if set(marks) & set(get_args(hints[f.name])[1:])), None)
    value = None if flag is None or "--help" in argv else _value(argv, flag)
    if flag is None or value is None:
        return argv
    at = next(i for i, a in enumerate(argv) if a == flag or a.startswith(flag + "="))
    return [value, *argv[:at], *argv[at + (2 if argv[at] == flag else 1) :]]


def _value(argv: Sequence[str], flag: str) -> str | None:
    for i, arg in enumerate(argv):
        if arg.startswith(flag + "="):
            return arg.partition("=")[2]
        if arg == flag and i + 1 < len(argv):
            return argv[i + 1]
    return None
