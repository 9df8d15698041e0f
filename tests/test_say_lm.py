"""`voxtok say` with a language model: the same command, another way to draw tokens."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile as sf
import torch

from tests.tiny_vocoder import tiny_config, tiny_vocoder, token_facts
from tests.toy_corpus import write_toy_corpus
from tests.toy_tokenizer import toy_tokenizer
from voxtok.manifests.cuts import load_cuts
from voxtok.manifests.tokens import TokenSequence
from voxtok.runtime.commands import main
from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.encode import encode_corpus
from voxtok.tokenize.train import TrainConfig
from voxtok.tts.layout import Rows
from voxtok.tts.lm import LmShape
from voxtok.tts.sampling import SamplingConfig
from voxtok.tts.say import SayConfig, open_talker, say
from voxtok.tts.text import TextConfig
from voxtok.tts.train_lm import TrainLmConfig, train_lm
from voxtok.tts.train_tts_lm import TrainTtsLmConfig, train_tts_lm
from voxtok.tts.tts_lm import Drawing, VoiceInput
from voxtok.vocoder.vocoder import Vocoder

STEPS = TrainConfig(steps=2, peak_lr=1e-2, warmup_steps=1, decay_share=0.0)
SHAPE = LmShape(blocks=1, width=16, heads=2, feed_forward=24, context_steps=512)
WARM = Drawing(sampling=SamplingConfig(temperature=1.0, top_k=10))


def tts_config(folder: Path, out: str, rows: Rows, voice: VoiceInput) -> TrainTtsLmConfig:
    return TrainTtsLmConfig(
        store=str(folder / "tokens"),
        out=str(folder / out),
        text=TextConfig(kind="characters", language="en-us"),
        rows=rows,
        pattern="delayed",
        max_duration_frames=50,
        voice=voice,
        prompt_s=0.3,
        model=SHAPE,
        batch_steps=512,
        train=STEPS,
        device="cpu",
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Language models that are barely trained, and a vocoder."""
    folder = tmp_path_factory.mktemp("say-lm")
    cuts = load_cuts(write_toy_corpus(folder / "corpus", [0.8, 1.0, 1.2]))
    tokenizer = toy_tokenizer()
    encode_corpus(cuts, tokenizer, folder / "tokens", shard_size=4)
    train_tts_lm(tts_config(folder, "timed", "timed", "none"))
    train_tts_lm(tts_config(folder, "merged", "merged", "none"))
    train_tts_lm(tts_config(folder, "prompted", "frames", "prompt"))
    train_lm(
        TrainLmConfig(
            stores=(str(folder / "tokens"),), out=str(folder / "lm"), rows="frames", pattern="parallel", model=SHAPE,
            batch_steps=512, train=STEPS, device="cpu",
        )
    )  # fmt: skip
    for name, identity in (("vocoder", tokenizer), ("merged-vocoder", tokenizer.with_dedup(True))):
        facts = token_facts(tokenizer.vocab_sizes, identity.fingerprint, hop_samples=160)
        made = tiny_vocoder(tiny_config("phases", durations=name != "vocoder"), facts)
        if made.model.durations is not None:
            torch.nn.init.constant_(made.model.durations.out.bias, 1.0)  # about three frames a unit
        made.save(folder / name)
    return folder


def config(folder: Path, model: str, out: Path, **changes: object) -> SayConfig:
    whole = SayConfig(
        words=(str(folder / model), "a e i o"),
        out=str(out),
        vocoder=str(folder / "vocoder"),
        drawing=WARM,
        device="cpu",
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


def test_a_sentence_from_the_command_line(folder: Path, tmp_path: Path) -> None:
    words = ["say", str(folder / "timed"), "a e i o", "--out", str(tmp_path / "a.wav"), "--device", "cpu"]
    words += ["--vocoder", str(folder / "vocoder"), "--drawing.sampling.temperature", "1", "--drawing.candidates", "2"]
    words += ["--rescorer", str(folder / "lm"), "--drawing.rescorer-weight", "0.5"]
    assert main(words) == 0
    samples, rate = sf.read(tmp_path / "a.wav")
    assert (rate, len(samples) > 1600) == (16000, True)


def test_many_sentences_are_said_as_each_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("a e i o\no u\n")
    one = config(folder, "timed", tmp_path / "one.wav")
    texts = str(tmp_path / "texts.txt")
    summary = say(replace(one, words=(str(folder / "timed"),), texts=texts, out=str(tmp_path / "all")))
    assert summary is not None and summary["utterances"] == 2
    assert set(summary["failures"]) == {"early stop", "too long", "loop", "silence"}
    cuts = load_cuts(tmp_path / "all" / "cuts.jsonl.gz")
    failed = [cut.supervisions[0].custom["failure"] for cut in cuts if cut.supervisions[0].custom["failure"]]
    assert sum(summary["failures"].values()) == len(failed)
    say(one)
    assert (tmp_path / "one.wav").read_bytes() == (tmp_path / "all" / "audio" / "0001.wav").read_bytes()


def test_units_without_durations_need_a_vocoder_that_knows_them(folder: Path, tmp_path: Path) -> None:
    merged = config(folder, "merged", tmp_path / "a.wav", vocoder=str(folder / "merged-vocoder"))
    say(merged)
    vocoder = Vocoder.load(folder / "merged-vocoder", device="cpu")
    (tokens,) = open_talker(merged).model.tokens(["a e i o"])
    assert isinstance(tokens, TokenSequence) and tokens.durations is None
    lasting = vocoder.lasting(replace(tokens, fingerprint=vocoder.fingerprint)).num_frames
    assert sf.info(tmp_path / "a.wav").frames == lasting * vocoder.hop_samples > len(tokens) * vocoder.hop_samples
    say(config(folder, "timed", tmp_path / "b.wav", vocoder=str(folder / "merged-vocoder")))
    with pytest.raises(ConfigError, match="units without durations"):
        say(config(folder, "merged", tmp_path / "c.wav"))
    tiny_vocoder(tiny_config("phases"), vocoder.facts).save(tmp_path / "no-durations")
    with pytest.raises(ConfigError, match="vocoder that predicts them"):
        say(config(folder, "merged", tmp_path / "c.wav", vocoder=str(tmp_path / "no-durations")))
    with pytest.raises(ConfigError, match="tokens with durations"):
        say(config(folder, "merged", tmp_path / "c.wav", voice="anyone.wav"))


def test_the_voice_of_a_recording_is_the_prompt(folder: Path, tmp_path: Path) -> None:
    voices = [str(folder / "corpus" / "audio" / f"utt00{i}.wav") for i in range(2)]
    for number, voice in enumerate(voices):
        say(config(folder, "prompted", tmp_path / f"{number}.wav", speaker=voice))
    assert (tmp_path / "0.wav").read_bytes() != (tmp_path / "1.wav").read_bytes()
    say(config(folder, "prompted", tmp_path / "again.wav", speaker=voices[0], upstream="mfcc"))
    assert (tmp_path / "again.wav").read_bytes() == (tmp_path / "0.wav").read_bytes()
    with pytest.raises(ConfigError, match="has 3 recordings"):
        say(config(folder, "prompted", tmp_path / "a.wav", speaker=str(folder / "corpus")))
    with pytest.raises(ConfigError, match="voice of a recording"):
        say(config(folder, "prompted", tmp_path / "a.wav"))


def test_options_of_the_other_kind_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="say how it draws"):
        say(config(folder, "timed", tmp_path / "a.wav", drawing=None))
    with pytest.raises(ConfigError, match="not for a language model"):
        say(config(folder, "timed", tmp_path / "a.wav", speed=2.0))
    with pytest.raises(ConfigError, match="leave out --speaker"):
        say(config(folder, "timed", tmp_path / "a.wav", speaker="s0"))
    with pytest.raises(ConfigError, match="--rescorer chooses"):
        config(folder, "timed", tmp_path / "a.wav", drawing=None, rescorer=str(folder / "lm"))
    (tmp_path / "tts").mkdir()
    with pytest.raises(ConfigError, match="is for language models"):
        say(config(folder, "timed", tmp_path / "a.wav", words=(str(tmp_path / "tts"), "a")))
    assert json.loads((folder / "timed" / "tts_lm.json").read_text())["voice"] == "none"
