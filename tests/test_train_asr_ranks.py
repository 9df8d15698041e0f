"""Training of recognizers by two processes."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from safetensors.torch import save_file

from tests.test_train_asr import config, losses, network, weights
from tests.toy_speech_text import LETTERS, toy_parts
from voxtok.asr.train_asr import TrainAsrConfig, main, train_asr
from voxtok.runtime.files import read_jsonl

pytestmark = pytest.mark.skipif(find_spec("speechbrain") is None, reason="encoders come from voxtok[speechbrain]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_parts(tmp_path_factory.mktemp("toy_ranks"))


def test_two_ranks_train_as_one(folder: Path, tmp_path: Path) -> None:
    """Without dropout, gradients of two ranks add up to those of one."""
    shape = replace(network().encoder, dropout=0.0)
    one, two = by_one_rank_and_two(config(folder, tmp_path, model=network(encoder=shape), steps=4))
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)


def test_every_ranks_losses_that_are_not_finite_are_listed(folder: Path, tmp_path: Path) -> None:
    """Begun with an `s` that is no number: what `sat` is said in has no loss, whichever rank trains on it."""
    first = train_asr(config(folder, tmp_path / "first", steps=3))
    spoiled = weights(first)
    token = 2 * LETTERS.index("s")
    spoiled["front.embed.tables.0.weight"][token : token + 2] = float("nan")
    save_file(spoiled, first / "model.safetensors")
    one, two = by_one_rank_and_two(replace(config(folder, tmp_path, steps=3), init=str(first)))
    listed = [sorted(row["id"] for row in read_jsonl(out / "rejected.jsonl")) for out in (one, two)]
    assert len(listed[0]) > 5 and listed[0] == listed[1]


def by_one_rank_and_two(made: TrainAsrConfig) -> list[Path]:
    """Folders of the same training by this process, and by two."""
    folders = [Path(made.out) / "one", Path(made.out) / "two"]
    for out, train in zip(folders, (main, _torchrun), strict=True):
        train(_command(replace(made, out=str(out)), out.with_suffix(".yaml")))
    return folders


def _command(made: TrainAsrConfig, file: Path) -> list[str]:
    file.write_text(json.dumps(asdict(made)))
    return ["--config", str(file)]


def _torchrun(argv: list[str]) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "voxtok.runtime.commands", "train-asr", *argv], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
