"""Decoder-only token TTS: it learns to spell a toy language, in the voice that it is given."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lhotse import MonoCut, SupervisionSegment
from lhotse.cut import Cut

from tests.toy_lm import FINGERPRINT, RATE_HZ, toy_layout, toy_lm
from voxtok.manifests.store import StoreInfo, TokenStore
from voxtok.manifests.tokens import TokenSequence
from voxtok.runtime.errors import BadText, ConfigError, CorruptFile, TokenizerMismatch
from voxtok.runtime.files import read_jsonl
from voxtok.tokenize.train import TrainConfig
from voxtok.tts.lm import LmShape
from voxtok.tts.lm_score import nats_of
from voxtok.tts.sampling import Drawn, SamplingConfig
from voxtok.tts.text import TextConfig
from voxtok.tts.train_tts_lm import TrainTtsLmConfig, train_tts_lm
from voxtok.tts.tts_lm import Drawing, LmSynthesizer, beginning, best

LETTERS = {"a": [1, 1, 2], "b": [3, 3], "c": [4, 5, 4], " ": [0]}
GREEDY = Drawing(sampling=SamplingConfig(temperature=0.0))


def spelled(text: str, voice: int = 0) -> TokenSequence:
    """Every letter has its frames; the second voice's numbers are 6 higher."""
    frames = [frame + 6 * voice for letter in text for frame in LETTERS[letter]]
    return TokenSequence(np.array(frames, dtype=np.uint8)[:, None], RATE_HZ, FINGERPRINT)


def sentences(count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join("".join(rng.choice(list("abc"), size=2)) for _ in range(3)) for _ in range(count)]


def write_spoken(folder: Path, texts: list[str], voices: int = 1) -> str:
    """A token store of texts spoken by voices in turn."""
    info = StoreInfo(fingerprint=FINGERPRINT, frame_rate_hz=RATE_HZ, vocab_sizes=(12,), dedup=False, shard_size=1000)
    store = TokenStore.create(folder, info)
    rows: list[tuple[Cut, TokenSequence]] = []
    for i, text in enumerate(texts):
        tokens = spelled(text, i % voices)
        said = SupervisionSegment(f"u{i}", f"u{i}", 0, tokens.duration_s, text=text, speaker=f"s{i % voices}")
        rows.append((MonoCut(f"u{i:03d}", 0, tokens.duration_s, 0, [said]), tokens))
    store.write_shard(0, rows, [], "inputs")
    store.finish(["inputs"])
    return str(folder)


def config(store: str, out: Path, **changes: object) -> TrainTtsLmConfig:
    whole = TrainTtsLmConfig(
        store=store,
        out=str(out),
        text=TextConfig(kind="characters", language="en-us"),
        rows="frames",
        pattern="parallel",
        voice="none",
        prompt_s=0.2,
        model=LmShape(blocks=2, width=48, heads=4, feed_forward=64, context_steps=64),
        batch_steps=512,
        train=TrainConfig(
            steps=240, peak_lr=5e-3, warmup_steps=10, decay_share=0.5, report_steps=50, checkpoint_steps=300
        ),
        device="cpu",
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One voice, 150 sentences."""
    folder = tmp_path_factory.mktemp("trained")
    return train_tts_lm(config(write_spoken(folder / "store", sentences(150, seed=0)), folder / "lm"))


def test_unseen_sentences_are_spelled_alone_and_together(trained: Path) -> None:
    synthesizer = LmSynthesizer.load(trained, device="cpu")
    unseen = [text for text in sentences(40, seed=1) if text not in sentences(150, seed=0)][:6]
    drawn = synthesizer.draw([*unseen, "xyz"], GREEDY, seed=0)
    wrong = drawn.pop()
    assert isinstance(wrong, BadText)
    for text, found in zip(unseen, drawn, strict=True):
        assert isinstance(found, Drawn)
        assert (found.ended, found.tokens.codes.tolist()) == ("end", spelled(text).codes.tolist()), text
    alone = synthesizer.tokens(unseen[:1], GREEDY, seed=0)[0]
    assert isinstance(alone, TokenSequence)
    assert alone.codes.tolist() == spelled(unseen[0]).codes.tolist()


def test_a_sentence_that_cannot_be_drawn_is_named_and_the_others_are_said(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The context has 64 steps, which this many letters fill."""
    synthesizer = LmSynthesizer.load(trained, device="cpu")
    found = synthesizer.tokens(["ab ca", "a" * 62, "ab ca"], GREEDY, seed=0)
    assert isinstance(found[1], BadText) and "leave no room in the model's context of 64 steps" in str(found[1])
    assert [isinstance(one, TokenSequence) for one in found] == [True, False, True]
    monkeypatch.setattr(synthesizer, "draw", lambda *_, **__: [Drawn(spelled(""), 0, "end", 0.0, 1)])
    (silent,) = synthesizer.tokens(["ab"], GREEDY, seed=0)
    assert isinstance(silent, BadText) and "no token" in str(silent)


def test_what_is_drawn_follows_from_seed_and_sentence(trained: Path) -> None:
    synthesizer = LmSynthesizer.load(trained, device="cpu")
    warm = Drawing(sampling=SamplingConfig(temperature=3.0))

    def codes(texts: list[str], seed: int) -> list[list[list[int]]]:
        found = synthesizer.tokens(texts, warm, seed=seed)
        return [one.codes.tolist() for one in found if isinstance(one, TokenSequence)]

    assert codes(["ab ca"], 1) == codes(["ab ca"], 1) == codes(["cc", "ab ca"], 1)[1:]
    assert codes(["ab ca"], 1) != codes(["ab ca"], 2)


def test_a_sentence_is_as_long_as_its_symbols_can_last(trained: Path) -> None:
    synthesizer = LmSynthesizer.load(trained, device="cpu")
    hot = Drawing(sampling=SamplingConfig(temperature=30.0))  # would end anywhere
    fastest, slowest = synthesizer.conditions.frames_per_symbol
    assert 1.2 < fastest < slowest < 2.5
    for seed in range(5):
        found = synthesizer.tokens(["ab ca ba cc"], hot, seed=seed)[0]
        assert isinstance(found, TokenSequence)
        symbols = len(synthesizer.front.encode("ab ca ba cc"))
        assert 0.8 * fastest * symbols <= found.num_frames <= 1.3 * slowest * symbols + 0.5 * RATE_HZ + 1


def test_the_best_candidate_ends_and_is_likely() -> None:
    tokens = [spelled(text) for text in ("a", "ab", "abc")]
    loop = Drawn(tokens[0], 0, "loop", 1.0, 10)
    good, poor = Drawn(tokens[1], 0, "end", 5.0, 10), Drawn(tokens[2], 0, "end", 9.0, 10)
    assert best([loop, poor, good], 0.0, None) is good
    assert best([loop], 0.0, None) is loop
    rescorer = toy_lm(toy_layout(vocab_sizes=(12,)))
    nats = nats_of(rescorer, [rescorer.layout.document(drawn.tokens) for drawn in (good, poor)])
    likely = good if nats[0] / (len(good.tokens) + 1) < nats[1] / (len(poor.tokens) + 1) else poor
    assert best([loop, poor, good], 1.0, rescorer) is likely


def test_candidates_mend_what_one_drawing_spoils(trained: Path) -> None:
    synthesizer = LmSynthesizer.load(trained, device="cpu")
    texts = sentences(8, seed=5)

    def right(candidates: int) -> int:
        drawing = Drawing(sampling=SamplingConfig(temperature=1.6), candidates=candidates)
        found = synthesizer.tokens(texts, drawing, seed=0)
        return sum(
            isinstance(one, TokenSequence) and one.codes.tolist() == spelled(text).codes.tolist()
            for one, text in zip(found, texts, strict=True)
        )

    assert right(1) < right(6)


def test_a_prompt_and_a_name_give_the_voice(tmp_path: Path) -> None:
    texts = [text for text in sentences(150, seed=0) for _ in range(2)]
    store = write_spoken(tmp_path / "store", texts, voices=2)
    few = replace(config(store, tmp_path).train, steps=60)
    named, prompted = (
        LmSynthesizer.load(train_tts_lm(config(store, tmp_path / voice, voice=voice, train=few)), device="cpu")
        for voice in ("table", "prompt")
    )
    for voice in range(2):
        for synthesizer, speaker in ((named, f"s{voice}"), (prompted, spelled("ac cb ab", voice))):
            found = synthesizer.tokens(["ca bb"], GREEDY, seed=0, speaker=speaker)[0]
            assert isinstance(found, TokenSequence)
            assert set((found.codes[:, 0] >= 6).tolist()) == {voice == 1}
    with pytest.raises(ConfigError, match="'s2' is not one of this model's: s0, s1"):
        named.tokens(["ab"], GREEDY, seed=0, speaker="s2")
    with pytest.raises(ConfigError, match="voice of a recording"):
        prompted.tokens(["ab"], GREEDY, seed=0)
    with pytest.raises(TokenizerMismatch, match="the voice"):
        prompted.tokens(["ab"], GREEDY, seed=0, speaker=replace(spelled("a"), fingerprint="e" * 64))


def test_bad_input_is_named(trained: Path, tmp_path: Path) -> None:
    synthesizer = LmSynthesizer.load(trained, device="cpu")
    with pytest.raises(ConfigError, match="leave out the speaker"):
        synthesizer.tokens(["ab"], GREEDY, seed=0, speaker="s0")
    with pytest.raises(ConfigError, match="given together"):
        synthesizer.tokens(["ab"], replace(GREEDY, rescorer_weight=0.5), seed=0)
    weighed = replace(GREEDY, rescorer_weight=0.5)
    other = toy_lm(replace(toy_layout(vocab_sizes=(12,)), fingerprint="e" * 64))
    with pytest.raises(TokenizerMismatch, match="the rescorer"):
        synthesizer.tokens(["ab"], weighed, seed=0, rescorer=other)
    with pytest.raises(CorruptFile, match="no tts_lm"):
        LmSynthesizer.load(tmp_path)
    for wrong in ({"candidates": 0}, {"rescorer_weight": 2.0}, {"shortest": 1.5}):
        with pytest.raises(ConfigError):
            replace(GREEDY, **wrong)
    store = write_spoken(tmp_path / "store", ["ab", "ab " * 20 + "c"])
    short = config(store, tmp_path / "lm")
    with pytest.raises(ConfigError, match="seed must be at least 0"):
        replace(short, seed=-1)
    train_tts_lm(replace(short, train=replace(short.train, steps=11)))
    assert [row["reason"] for row in read_jsonl(tmp_path / "lm" / "rejected.jsonl")] == ["too long"]
    tiny = replace(short, model=replace(short.model, context_steps=4), out=str(tmp_path / "tiny"))
    with pytest.raises(ConfigError, match="no utterance is as short"):
        train_tts_lm(tiny)


def test_a_finished_folder_is_not_changed(trained: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    whole = config(str(trained.parent / "store"), trained)
    assert train_tts_lm(whole) == trained
    with pytest.raises(ConfigError, match="another configuration"):
        train_tts_lm(replace(whole, voice="table"))
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_corrected_texts_and_speakers_are_another_training(tmp_path: Path) -> None:
    """Of the held-out speech too; their counts and letters are what they were."""
    texts = ["ab ca", "ba cc", "cb aa"]
    train = TrainConfig(steps=2, peak_lr=1e-2, warmup_steps=1, decay_share=0.0)
    for name in ("store", "valid"):
        shutil.rmtree(tmp_path, ignore_errors=True)
        whole = config(write_spoken(tmp_path / "store", texts), tmp_path / "lm", train=train)
        whole = replace(whole, valid=write_spoken(tmp_path / "valid", texts))
        done = train_tts_lm(whole) / "done.json"
        before = done.stat().st_mtime_ns
        for changed, voices in ((["ba ca", *texts[1:]], 1), (texts, 2)):
            shutil.rmtree(tmp_path / name)
            write_spoken(tmp_path / name, changed, voices)
            with pytest.raises(ConfigError, match="another configuration"):
                train_tts_lm(whole)
        shutil.rmtree(tmp_path / name)
        write_spoken(tmp_path / name, texts)
        train_tts_lm(whole)
        assert done.stat().st_mtime_ns == before


def test_the_beginning_of_an_utterance() -> None:
    tokens = spelled("abc")
    assert len(beginning(tokens, 0.1)) == 5
    assert beginning(tokens.dedup(), 0.1).durations is not None
    assert beginning(tokens.dedup(), 0.1).num_frames == 5
    assert len(beginning(tokens, 0.001)) == 1
