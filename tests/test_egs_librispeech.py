"""Which parts of LibriSpeech its recipes name: run with a `voxtok` that only notes its words."""

import os
import re
import subprocess
from pathlib import Path

import pytest

EGS = Path(__file__).parent.parent / "egs"


@pytest.mark.parametrize("recipe", ["librispeech", "librispeech_100"])
def test_another_training_part_is_prepared_and_used(recipe: str, tmp_path: Path) -> None:
    """Cuts that a stage reads are of parts that the first stage prepares."""
    (tmp_path / "voxtok").write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/words"\n')
    (tmp_path / "voxtok").chmod(0o755)
    environment = {
        **os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "EXP": str(tmp_path), "TRAIN": "train-clean-360"
    }  # fmt: skip
    subprocess.run([EGS / recipe / "run.sh"], env=environment, check=True)
    prepare, *later = (tmp_path / "words").read_text().splitlines()
    prepared = set(re.findall(r"dataset_parts=(.*)", prepare)[0].split(","))
    read = {part for line in later for part in re.findall(r"cuts_([a-z0-9-]+)\.jsonl", line)}
    assert "train-clean-360" in read <= prepared and "train-clean-100" not in prepared
