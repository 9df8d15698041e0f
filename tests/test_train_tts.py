"""Training a text-to-token model: it learns durations and tokens, resumes, and refuses what it was not made for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.toy_corpus import write_toy_corpus
from tests.toy_tokenizer import toy_tokenizer
from voxtok.manifests.cuts import load_cuts
from voxtok.manifests.store import TokenStore
from voxtok.manifests.tokens import TokenSequence
from voxtok.runtime.files import read_jsonl
from voxtok.tokenize.encode import encode_corpus
from voxtok.tokenize.train import TrainConfig
from voxtok.tts.corpus import CorpusConfig
from voxtok.tts.network import TtsShape
from voxtok.tts.refinement import Decoding
from voxtok.tts.synthesizer import Synthesizer
from voxtok.tts.text import TextConfig
from voxtok.tts.train_tts import TrainTtsConfig, train_tts

SHAPE = TtsShape(
    rows="frames", decoder="parallel", width=32, heads=2, encoder_blocks=1, decoder_blocks=1, kernel=3, expansion=2,
    dropout=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens of the toy corpus, one row a frame and merged, and its vowels as a lexicon."""
    folder = tmp_path_factory.mktemp("tts")
    cuts = load_cuts(write_toy_corpus(folder / "corpus", [1.0 + 0.1 * i for i in range(8)]))
    encode_corpus(cuts, toy_tokenizer(12), folder / "frames", shard_size=4)
    encode_corpus(cuts, toy_tokenizer(12, dedup=True), folder / "merged", shard_size=4)
    (folder / "lexicon.txt").write_text("".join(f"{vowel} {vowel}\n" for vowel in "aeiou"))
    return folder


def config(stores: Path, out: Path, steps: int = 6, **changes: object) -> TrainTtsConfig:
    text = TextConfig(kind="lexicon", language="en-us", lexicon=str(stores / "lexicon.txt"))
    whole = TrainTtsConfig(
        data=CorpusConfig(store=str(stores / "frames"), text=text, durations="alignment"),
        out=str(out),
        model=SHAPE,
        batch_frames=300,
        train=TrainConfig(
            steps=steps, peak_lr=3e-3, warmup_steps=1, decay_share=0.0, report_steps=1, checkpoint_steps=2
        ),
        average_decay=0.9,
        device="cpu",
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


def fitted(stores: Path, out: Path, **changes: object) -> tuple[Synthesizer, list[TokenSequence], list[TokenSequence]]:
    """A model trained on four utterances until it knows them; what it says of their texts, and their tokens."""
    whole = config(stores, out, steps=250, **changes)
    synthesizer = Synthesizer.load(train_tts(whole), device="cpu")
    every = list(TokenStore.open(whole.data.store))
    texts = [cut.supervisions[0].text for cut, _ in every]
    said = synthesizer.tokens(texts, Decoding(), seed=0)
    return synthesizer, [one for one in said if isinstance(one, TokenSequence)], [tokens for _, tokens in every]


def agreement(said: TokenSequence, wanted: TokenSequence) -> float:
    """Share of frames with equal tokens, as far as the shorter goes."""
    length = min(said.num_frames, wanted.num_frames)
    equal = said.expand().codes[:length] == wanted.expand().codes[:length]
    return float(equal.mean())


def test_a_tiny_model_learns_the_toy_corpus_by_heart(stores: Path, tmp_path: Path) -> None:
    synthesizer, said, wanted = fitted(stores, tmp_path)
    for one, truth in zip(said, wanted, strict=True):
        assert one.fingerprint == truth.fingerprint == synthesizer.fingerprint
        assert abs(len(one) - len(truth)) <= 4
    rows = list(read_jsonl(tmp_path / "metrics.jsonl"))
    assert rows[-1]["accuracy"] > 0.9 > rows[0]["accuracy"]
    assert rows[-1]["duration_error_rows"] < 0.5
    assert np.mean([agreement(one, truth) for one, truth in zip(said, wanted, strict=True)]) > 0.6
