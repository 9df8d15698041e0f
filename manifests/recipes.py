"""Corpora that Lhotse knows how to prepare: its own prepare_* and download_* functions, called by name."""

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from inspect import Parameter
from pathlib import Path
from typing import Any

import lhotse.recipes
from lhotse import CutSet

from voxtok.manifests.cuts import CorpusSize, pair, save_cuts, segments_of
from voxtok.runtime.config import parse
from voxtok.runtime.errors import ConfigError, ManifestError


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """Prepare a corpus by Lhotse's recipe of that name: cuts.jsonl.gz, or one cuts_PART.jsonl.gz for each part."""

    corpus_dir: str
    """Folder of the corpus as its makers distribute it; with --download, the folder to download into."""
    out: str
    """Folder to write the cuts to."""
    download: bool = False
    """Download the corpus first, where Lhotse can."""
    segments: bool = False
    """One cut of each utterance; by default one of each whole recording, with its utterances as supervisions."""
    jobs: int = 1
    """Processes that read the corpus, where the recipe can use several."""
    settings: tuple[str, ...] = ()
    """NAME=VALUE: options of Lhotse's functions, such as dataset_parts=dev-clean,dev-other; a wrong one lists them."""


def corpus_names() -> list[str]:
    """Names of the corpora that Lhotse prepares, sorted."""
    return sorted(name.removeprefix("prepare_") for name in dir(lhotse.recipes) if name.startswith("prepare_"))


def check_name(name: str) -> None:
    """Raise a ConfigError with the nearest names where Lhotse knows no such corpus."""
    names = corpus_names()
    if name not in names:
        near = get_close_matches(name, names, n=3, cutoff=0.5)
        suggestion = f"did you mean {' or '.join(near)}?" if near else "voxtok corpus --help lists them"
        raise ConfigError(f"Lhotse knows no corpus {name!r}; {suggestion}")


def prepare_corpus(name: str, config: RecipeConfig) -> dict[str, CorpusSize]:
    """Prepare a corpus and write its cuts, sorted by id.

    Returns:
        Size by the name of the file written.

    Raises:
        ConfigError: an unknown corpus or setting, a setting that is missing, or no download for this corpus.
        ManifestError: Lhotse could not download or prepare it.
    """
    check_name(name)
    prepare: Callable[..., Any] = getattr(lhotse.recipes, f"prepare_{name}")
    download: Callable[..., Any] | None = getattr(lhotse.recipes, f"download_{name}", None)
    settings = _settings(config.settings, [prepare, download] if download else [prepare])
    corpus_dir = Path(os.path.abspath(config.corpus_dir))
    if config.download:
        if download is None:
            raise ConfigError(f"Lhotse cannot download {name}: get it from its makers and give --corpus-dir")
        found = _call(download, corpus_dir, settings)
        corpus_dir = found if isinstance(found, Path) else corpus_dir
    out = Path(config.out)
    own: dict[str, Any] = {"num_jobs": config.jobs}
    if "output_dir" in _required(prepare):
        own["output_dir"] = out / "lhotse"
    result = _call(prepare, corpus_dir, {**own, **settings})
    sizes = {}
    for part, cuts in _parts(result):
        file = f"cuts_{part}.jsonl.gz" if part else "cuts.jsonl.gz"
        chosen = segments_of(cuts) if config.segments else cuts
        sizes[file] = save_cuts(out / file, sorted(chosen, key=lambda cut: str(cut.id)))
    if not any(size.recordings for size in sizes.values()):
        raise ManifestError(f"Lhotse found nothing of {name} in {corpus_dir}: is it the right folder?")
    return sizes


def _parameters(function: Callable[..., Any]) -> dict[str, Parameter]:
    return dict(inspect.signature(function).parameters)


def _required(function: Callable[..., Any]) -> list[str]:
    return [name for name, parameter in _parameters(function).items() if parameter.default is Parameter.empty]


def _settings(words: Sequence[str], functions: Sequence[Callable[..., Any]]) -> dict[str, Any]:
    """Parse NAME=VALUE by the parameters of Lhotse's functions."""
    known = {name: parameter for function in functions for name, parameter in _parameters(function).items()}
    shown = ", ".join(str(parameter).split(":")[0].split("=")[0].strip() for parameter in known.values())
    settings = {}
    for word in words:
        name, equals, value = word.partition("=")
        name = name.replace("-", "_")
        if not equals or name not in known:
            raise ConfigError(f"{word!r} is none of Lhotse's settings for this corpus, NAME=VALUE with {shown}")
        settings[name] = _value(value, known[name])
    return settings


def _value(text: str, parameter: Parameter) -> Any:
    """A setting's value by the parameter's annotation; lists are separated by commas."""
    kind = str(parameter.annotation)
    try:
        if "bool" in kind:
            return {"true": True, "false": False}[text.lower()]
        if "int" in kind:
            return int(text)
        if "float" in kind:
            return float(text)
    except (KeyError, ValueError):
        raise ConfigError(f"{parameter.name}={text}: that is no {kind}") from None
    is_list = any(word in kind for word in ("Sequence", "List", "Tuple"))
    if is_list and ("," in text or "Union[str" not in kind):
        return text.split(",")
    return text


def _call(function: Callable[..., Any], corpus_dir: Path, settings: dict[str, Any]) -> Any:
    """Call one of Lhotse's functions with those settings it has, and the folder under the name it uses."""
    parameters = _parameters(function)
    given = {name: value for name, value in settings.items() if name in parameters}
    folder = next((name for name in ("corpus_dir", "target_dir") if name in parameters), next(iter(parameters)))
    given.setdefault(folder, corpus_dir)
    missing = [name for name in _required(function) if name not in given]
    if missing:
        raise ConfigError(f"this corpus needs more settings: {' '.join(f'{name}=...' for name in missing)}")
    try:
        return function(**given)
    except Exception as error:  # recipes raise anything, AssertionError included
        raise ManifestError(f"Lhotse's {function.__name__} failed: {str(error) or type(error).__name__}") from error


def _parts(result: Any, name: str = "") -> Iterator[tuple[str, CutSet]]:
    """The parts of what a recipe returned: manifests by kind, by part, by language and part, or as a tuple."""
    if isinstance(result, tuple):
        yield name, pair(*result[:2])
    elif "cuts" in result:
        yield name, result["cuts"]
    elif "recordings" in result:
        yield name, pair(result["recordings"], result.get("supervisions"))
    else:
        for part, inner in result.items():
            if isinstance(inner, dict | tuple):
                yield from _parts(inner, f"{name}_{part}".strip("_"))


def main(name: str, argv: Sequence[str]) -> int:
    """The command `voxtok corpus NAME`."""
    check_name(name)
    config = parse(RecipeConfig, argv, f"voxtok corpus {name}", positional="settings")
    for file, size in prepare_corpus(name, config).items():
        print(f"{Path(config.out) / file}: {size}")
    return 0
