"""A command's options: one frozen dataclass, filled from a YAML file and the command line by jsonargparse.

The docstring under each field is its help; a field without a default is required; an unknown key is an error that
names the nearest known one. On the command line, `--batch-s` and `--batch_s` are the same, as are `--train.peak-lr` and
`--train.peak_lr`, and `--strict` alone means `--strict true`.
"""

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NoReturn, TypeVar, cast, get_args, get_origin

import jsonargparse

C = TypeVar("C")

jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)


class _Parser(jsonargparse.ArgumentParser):
    """The parser of one command: shows options with hyphens and suggests the nearest known one."""

    known: tuple[str, ...] = ()

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        """Help text with `--batch-s` in place of `--batch_s`."""
        return re.sub(r"--[a-z][\w.]*", lambda match: match[0].replace("_", "-"), super().format_help(formatter))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one sentence and exit 2."""
        sys.stderr.write(f"{self.prog}: error: {message}{self._suggestion(message)}\n  {self.prog} --help\n")
        sys.exit(2)

    def _suggestion(self, message: str) -> str:
        unknown = re.search(r"unrecognized arguments: -*([\w-]+)|Option '([\w-]+)' is not accepted", message)
        if not unknown:
            return ""
        name = (unknown[1] or unknown[2]).replace("-", "_")
        near = difflib.get_close_matches(name, self.known, n=1)
        return f"; did you mean --{near[0].replace('_', '-')}?" if near else ""


def parse(config: type[C], argv: Sequence[str], prog: str, positional: str | None = None) -> C:
    """Fill the dataclass `config` from `argv`, which may name a YAML file with `--config`.

    Args:
        config: a frozen dataclass; its `__post_init__` may raise ConfigError for contradictions.
        argv: the words after the command's name.
        prog: shown in the help and the errors, such as "voxtok fit".
        positional: name of a field of type `tuple[str, ...]` that takes the words without an option.
    """
    parser = _Parser(prog=prog, description=(config.__doc__ or "").strip())
    parser.known = tuple(field.name for field in fields(cast(Any, config)))
    parser.add_argument("--config", action="config", help="a YAML file with these options; later options override it")
    skip = {positional} if positional else set()
    parser.add_class_arguments(config, skip=skip)
    if positional:
        parser.add_argument(positional, nargs="*", type=str, help=_field_help(config, positional))
    switches = {field.name for field in fields(cast(Any, config)) if field.type in (bool, bool | None)}
    lists = {field.name for field in fields(cast(Any, config)) if _takes_list(field.type)}
    words = _with_lists([_with_underscores(word) for word in argv], lists)
    values = parser.parse_args(_with_values(words, switches))
    given = parser.instantiate(values).as_dict()
    given.pop("config", None)
    if positional:
        given[positional] = tuple(given[positional])
    return config(**given)


BOOLEANS = ("true", "false", "True", "False", "yes", "no", "null")


def _with_underscores(word: str) -> str:
    name, equals, value = word.partition("=")
    if re.fullmatch(r"--[a-z][\w.-]*", name):
        name = "--" + name[2:].replace("-", "_")
    return name + equals + value


def _with_values(words: Sequence[str], switches: set[str]) -> list[str]:
    """`--strict` alone means `--strict=true`."""
    following = [*words, ""][1:]
    return [
        f"{word}=true" if word[:2] == "--" and word[2:] in switches and after not in BOOLEANS else word
        for word, after in zip(words, following, strict=True)
    ]


def _takes_list(kind: Any) -> bool:
    """Whether a field is a tuple, or may be one."""
    return get_origin(kind) is tuple or any(get_origin(one) is tuple for one in get_args(kind))


def _with_lists(words: Sequence[str], lists: set[str]) -> list[str]:
    """`--layers 6,9` and `--layers=6,9` mean `--layers [6,9]`."""
    found: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name[2:] in lists and not value.startswith("["):
            word = f"{name}=[{value}]"
        elif found and found[-1][:2] == "--" and found[-1][2:] in lists and not word.startswith(("[", "-")):
            word = f"[{word}]"
        found.append(word)
    return found


def _field_help(config: type, name: str) -> str:
    import docstring_parser

    for param in docstring_parser.parse_from_object(config).params:
        if param.arg_name == name:
            return param.description or ""
    return ""
