"""The unit HiFi-GAN of the field by its config: a small generator, SpeechBrain's whole discriminators, a kill."""

from pathlib import Path

import numpy as np
import pytest

from tests.test_configs import EGS
from tests.toy_corpus import write_toy_corpus
from tests.toy_tokenizer import toy_tokenizer
from voxtok.manifests.cuts import load_cuts
from voxtok.manifests.store import TokenStore
from voxtok.runtime.commands import main
from voxtok.runtime.files import read_jsonl
from voxtok.tokenize.encode import encode_corpus
from voxtok.vocoder import train
from voxtok.vocoder.vocoder import Vocoder

OPTIONS = (
    "--model.hifigan.channels 32 --segments.batch_size 2 --train.steps 2 --train.warmup_steps 1 --train.heldout 1 "
    "--train.checkpoint_steps 1 --train.report_steps 1 --train.tensorboard false --train.workers 0 --device cpu"
)


@pytest.mark.slow
def test_unit_hifigan_by_its_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("speechbrain")
    cuts = write_toy_corpus(tmp_path, [1.2, 1.5, 1.0])
    encode_corpus(load_cuts(cuts), toy_tokenizer(upstream="mini", layer=1), tmp_path / "store", shard_size=10)
    conf = EGS / "kathleen" / "conf" / "train-vocoder_hifigan.yaml"
    places = ["--config", str(conf), "--store", str(tmp_path / "store"), "--out", str(tmp_path / "out")]
    words = ["train-vocoder", *places, *OPTIONS.split()]
    real = train.update
    steps: list[int] = []

    def killed(*arguments: object) -> dict[str, float]:
        if len(steps) == 1:
            raise KeyboardInterrupt
        steps.append(1)
        return real(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(train, "update", killed)
        assert main(words) == 130
    assert main(words) == 0
    rows = [row for row in read_jsonl(tmp_path / "out" / "metrics.jsonl") if "discriminator" in row]
    assert [row["step"] for row in rows] == [1, 2]
    assert all(
        np.isfinite([row[name] for name in ("mel", "features", "durations", "discriminator")]).all() for row in rows
    )
    vocoder = Vocoder.load(tmp_path / "out" / "model", device="cpu")
    _, tokens = next(iter(TokenStore.open(tmp_path / "store")))
    assert len(vocoder.from_tokens(tokens)) == len(tokens) * 320
