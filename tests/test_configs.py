"""Every file under egs/*/conf is read by the command it is for, and they are counted."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from voxtok.asr.train_asr import TrainAsrConfig
from voxtok.runtime.config import parse
from voxtok.tokenize.distill import DistillConfig
from voxtok.tokenize.fit import FitConfig
from voxtok.tokenize.pretrain import PretrainConfig
from voxtok.tokenize.quality import QualityConfig
from voxtok.tokenize.sweep import SweepConfig
from voxtok.tts.train_lm import TrainLmConfig
from voxtok.tts.train_tts import TrainTtsConfig
from voxtok.vocoder.train_vocoder import TrainVocoderConfig

EGS = Path(__file__).parent.parent / "egs"
CONFIGS = sorted(EGS.glob("*/conf/**/*.yaml"))
COMMANDS: dict[str, tuple[Any, list[str]]] = {
    "fit": (FitConfig, ["--cuts", "c", "--out", "o"]),
    "distill": (DistillConfig, ["--cuts", "c", "--out", "o"]),
    "pretrain": (PretrainConfig, ["--stores", "[s]", "--out", "o", "--init", "i"]),
    "sweep": (SweepConfig, ["--upstream", "u", "--layers", "[1]", "--cuts", "c", "--heldout-cuts", "h", "--out", "o"]),
    "train-asr": (TrainAsrConfig, ["--data", "[d]", "--dev", "[d]", "--text-model", "t", "--out", "o"]),
    "quality": (QualityConfig, ["--store", "s", "--out", "o"]),
    "train-lm": (TrainLmConfig, ["--stores", "[s]", "--out", "o"]),
    "train-tts": (TrainTtsConfig, ["--data.store", "s", "--out", "o"]),
    "train-vocoder": (TrainVocoderConfig, ["--store", "s", "--out", "o"]),
}
"""A config is for the command that its name begins with, else it describes a tokenizer to fit."""


EXPECTED = {
    "folder": 1,
    "kathleen": 5,
    "librispeech": 4,
    "librispeech_100": 3,
    "ljspeech": 3,
    "mini_hubert": 13,
    "speechocean": 2,
    "synth": 3,
    "unit_lm": 2,
    "vctk": 1,
}


def test_no_config_is_left_out() -> None:
    assert Counter(path.parent.parent.name for path in CONFIGS) == EXPECTED


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(EGS)))
def test_every_config_is_accepted(path: Path) -> None:
    config, missing = COMMANDS.get(path.stem.split("_")[0], COMMANDS["fit"])
    assert isinstance(parse(config, ["--config", str(path), *missing], "voxtok"), config)


@pytest.mark.parametrize("script", sorted(EGS.glob("*/*.sh")), ids=lambda path: str(path.relative_to(EGS)))
def test_recipes_are_short_and_stop_at_errors(script: Path) -> None:
    lines = script.read_text().splitlines()
    commands = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    assert len(commands) < 60 and "set -euo pipefail" in lines
    assert (script.parent / "README.md").exists() and os.access(script, os.X_OK)
