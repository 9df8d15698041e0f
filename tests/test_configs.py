"""Every file under egs/*/conf is read by the command it is for, and they are counted."""

from pathlib import Path
from typing import Any

import pytest

from voxtok.runtime.config import parse
from voxtok.tokenize.fit import FitConfig

EGS = Path(__file__).parent.parent / "egs"
CONFIGS = sorted(EGS.glob("*/conf/**/*.yaml"))
COMMAND_OF: dict[str, tuple[Any, list[str]]] = {
    "fit": (FitConfig, ["--cuts", "c", "--out", "o"]),
}
"""By the first word of the file's name, or `fit` for a tokenizer's name: the command's options and those it lacks."""


def test_no_config_is_left_out() -> None:
    assert len(CONFIGS) == 5
    assert {path.parent.parent.name for path in CONFIGS} == {"folder", "librispeech", "synth"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(EGS)))
def test_every_config_is_accepted(path: Path) -> None:
    config, missing = COMMAND_OF.get(path.stem.split("_")[0], COMMAND_OF["fit"])
    parsed = parse(config, ["--config", str(path), *missing], "voxtok")
    assert parsed.layer >= 0 and parsed.vocab_size >= 100


@pytest.mark.parametrize("script", sorted(EGS.glob("*/run.sh")), ids=lambda path: path.parent.name)
def test_recipes_are_short_and_stop_at_errors(script: Path) -> None:
    lines = script.read_text().splitlines()
    commands = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    assert len(commands) < 60 and "set -euo pipefail" in lines
    assert (script.parent / "README.md").exists()
