"""Saying sentences: one to a file, many to a folder that a killed job completes, in the voice of a reference."""

import shutil
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from lhotse import SupervisionSegment

from tests.tiny_vocoder import feature_facts, tiny_config, tiny_vocoder, token_facts
from tests.toy_corpus import RATE, toy_speech, write_toy_corpus
from tests.toy_tokenizer import toy_tokenizer, tree
from voxtok.manifests.cuts import load_cuts
from voxtok.manifests.tokens import TokenSequence
from voxtok.runtime.errors import BadText, ConfigError, TokenizerMismatch
from voxtok.runtime.files import read_json, read_jsonl
from voxtok.tokenize.tokenizer import Tokenizer
from voxtok.tts.network import Decoder, TtsShape
from voxtok.tts.refinement import Decoding
from voxtok.tts.say import SayConfig, main, open_talker, say
from voxtok.tts.synthesizer import Speakers, Synthesizer, groups
from voxtok.tts.text import TextConfig, TextFrontEnd
from voxtok.tts.trained_voices import TrainedVoices
from voxtok.tts.utterances import Rows, Source
from voxtok.vocoder.features import identity_fingerprint
from voxtok.vocoder.model_config import SpeakerInput
from voxtok.vocoder.speaker import load_speaker_model, mean_embedding
from voxtok.vocoder.vocoder import Vocoder

TEXTS = ["a big cat", "the cat sat", "at a bat", "big bats, and cats!"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Over MFCC, 20 tokens."""
    return toy_tokenizer()


@pytest.fixture(scope="module")
def folder(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained models: tts and masked, of characters; vocoder of tokens, and features of their features."""
    folder = tmp_path_factory.mktemp("say")
    for name in ("tts", "masked"):
        untrained(tokenizer, "masked" if name == "masked" else "parallel").save(folder / name)
        tokenizer.save(folder / name / "tokenizer")
    hop = int(RATE / tokenizer.frame_rate_hz)
    facts = replace(token_facts(tokenizer.vocab_sizes), tokenizer=tokenizer.fingerprint, hop_samples=hop)
    tiny_vocoder(tiny_config("harmonic"), facts).save(folder / "vocoder")
    known = identity_fingerprint(tokenizer.upstream.identity, tokenizer.config.layers)
    facts = replace(feature_facts(tokenizer.upstream.width, known), hop_samples=hop)
    tiny_vocoder(tiny_config("harmonic"), facts).save(folder / "features")
    sf.write(folder / "reference.wav", toy_speech(2.0, seed=5)[0], RATE)
    (folder / "texts.txt").write_text("\n".join([*TEXTS, "ünknown", ""]))
    return folder


def untrained(
    tokenizer: Tokenizer, decoder: Decoder, rows: Rows = "frames", speakers: Speakers | None = None
) -> Synthesizer:
    torch.manual_seed(0)
    speaker: SpeakerInput = "none"
    if speakers is not None:
        speaker = "table" if speakers.names else "embedding"
    shape = TtsShape(rows=rows, decoder=decoder, width=16, heads=2, encoder_blocks=1, decoder_blocks=1, kernel=3,
                     speaker=speaker)  # fmt: skip
    source = Source(
        fingerprint=tokenizer.fingerprint, vocab_sizes=tokenizer.vocab_sizes, frame_rate_hz=tokenizer.frame_rate_hz,
        has_durations=False, pieces=False,
    )  # fmt: skip
    front = TextFrontEnd.build(TEXTS, TextConfig(kind="characters", language="en-us"))
    found = Synthesizer(shape, front, source, speakers or Speakers())
    with torch.no_grad():  # lengths that differ, and tokens too
        torch.nn.init.constant_(found.network.durations.out.bias, 1.2)
        for weight in found.network.heads.parameters():
            weight.mul_(20)
    found.network.eval()
    return found


def config(folder: Path, out: Path, *words: str, **changes: object) -> SayConfig:
    whole = SayConfig(words=(str(folder / "tts"), *words), out=str(out), vocoder=str(folder / "vocoder"), device="cpu",
                      texts=None if words else str(folder / "texts.txt"))  # fmt: skip
    return replace(whole, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("decoder", ["parallel", "masked"])
@pytest.mark.parametrize("rows", ["frames", "merged"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_batch_gives_what_each_gives_alone(
    tokenizer: Tokenizer, decoder: Decoder, rows: Rows, temperature: float
) -> None:
    model = untrained(tokenizer, decoder, rows)
    decoding = Decoding(rounds=4, temperature=temperature)
    together = model.tokens(TEXTS, decoding, seed=3)
    for text, found in zip(TEXTS, together, strict=True):
        (alone,) = model.tokens([text], decoding, seed=3)
        assert isinstance(found, TokenSequence) and isinstance(alone, TokenSequence)
        assert len(found) > 5
        np.testing.assert_array_equal(found.codes, alone.codes)
    lengths = {len(found) for found in together if isinstance(found, TokenSequence)}
    assert len(lengths) > 1


def test_long_sentences_are_computed_apart_and_longer_ones_refused(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 40 symbols at the most, 3 sentences of 21 go together."""
    model = untrained(tokenizer, "parallel")
    sizes: list[tuple[int, ...]] = []
    model.network.encoder.register_forward_pre_hook(lambda _, given: sizes.append(tuple(given[0].shape[:2])))
    texts = ["a " * 9 + "a", "a " * 30, *["a " * 9 + "a"] * 4, "a " * 15 + "a", "ü"]
    together = model.tokens(texts, Decoding(), seed=0)
    monkeypatch.setattr("voxtok.tts.synthesizer.MOST_SYMBOLS", 40)
    found = model.tokens(texts, Decoding(), seed=0)
    assert sizes == [(7, 61), (3, 21), (2, 21), (1, 33)]
    assert isinstance(found[1], BadText) and "61 symbols are more than 40: say it in parts" in str(found[1])
    for place in (0, 2, 3, 4, 5, 6):
        one, other = found[place], together[place]
        assert isinstance(one, TokenSequence) and isinstance(other, TokenSequence)
        np.testing.assert_array_equal(one.codes, other.codes)
    assert list(groups({3: 9, 1: 7, 2: 30})) == [[1, 3], [2]]


def test_seeds_and_speed(tokenizer: Tokenizer) -> None:
    model, drawn = untrained(tokenizer, "masked"), Decoding(rounds=3, temperature=1.0)
    one, again, other = (model.tokens(TEXTS[:1], drawn, seed=seed)[0] for seed in (0, 0, 1))
    fast = model.tokens(TEXTS[:1], drawn, seed=0, speed=2.0)[0]
    assert all(isinstance(found, TokenSequence) for found in (one, again, other, fast))
    assert isinstance(one, TokenSequence) and isinstance(again, TokenSequence) and isinstance(fast, TokenSequence)
    np.testing.assert_array_equal(one.codes, again.codes)
    assert isinstance(other, TokenSequence) and not np.array_equal(one.codes, other.codes)
    assert 0.4 * len(one) <= len(fast) <= 0.7 * len(one)


def test_refinement_fills_every_token_and_rounds_matter(tokenizer: Tokenizer) -> None:
    model = untrained(tokenizer, "masked")
    once, often = (model.tokens(TEXTS, Decoding(rounds=rounds), seed=0) for rounds in (1, 6))
    differ = 0
    for one, other in zip(once, often, strict=True):
        assert isinstance(one, TokenSequence) and isinstance(other, TokenSequence)
        assert one.codes.max() < 20 and other.codes.max() < 20  # 20 is the mask
        differ += int((one.codes != other.codes).sum())
    assert differ > 0


def test_speakers_are_named(tokenizer: Tokenizer) -> None:
    model = untrained(tokenizer, "parallel", speakers=Speakers(names=("ann", "bob")))
    ann, bob = (model.tokens(TEXTS[:1], Decoding(), seed=0, speaker=name)[0] for name in ("ann", "bob"))
    assert isinstance(ann, TokenSequence) and isinstance(bob, TokenSequence)
    assert not np.array_equal(ann.codes[: len(bob)], bob.codes[: len(ann)])
    with pytest.raises(ConfigError, match="'cid' is not one of this model's: ann, bob"):
        model.tokens(TEXTS[:1], Decoding(), seed=0, speaker="cid")
    with pytest.raises(ConfigError, match="give a speaker"):
        model.tokens(TEXTS[:1], Decoding(), seed=0)
    with pytest.raises(ConfigError, match="without speakers"):
        untrained(tokenizer, "parallel").tokens(TEXTS[:1], Decoding(), seed=0, speaker="ann")


def test_an_embedding_is_that_of_all_recordings_given(folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    measure = load_speaker_model("mini")
    untrained(tokenizer, "parallel", speakers=Speakers(width=measure.width, model=measure.fingerprint)).save(tmp_path)
    tokenizer.save(tmp_path / "tokenizer")
    write_toy_corpus(tmp_path / "corpus", [1.0, 1.5])
    recordings = load_cuts(tmp_path / "corpus")
    for place in ("corpus", "corpus/audio"):
        told = config(folder, tmp_path / "a.wav", words=(str(tmp_path), "a"), texts=None, speaker=str(tmp_path / place))
        talker = open_talker(told)
        np.testing.assert_allclose(talker.model.speaker, mean_embedding(measure, recordings), atol=1e-5)


def test_one_sentence_to_a_file(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "hello.wav"
    options = ["--out", str(out), "--vocoder", str(folder / "vocoder"), "--device", "cpu"]
    assert main([str(folder / "tts"), "a cat", *options]) == 0
    with wave.open(str(out)) as found:
        assert found.getframerate() == RATE and found.getnframes() > 1000
    talker = open_talker(config(folder, out, "a cat"))
    ((tokens, samples),) = [said for said in talker.say(["a cat"]) if not isinstance(said, BadText)]
    assert len(samples) == found.getnframes() == tokens.num_frames * RATE / tokens.frame_rate_hz


def test_a_folder_is_resumed_and_bad_sentences_are_listed(folder: Path, tmp_path: Path) -> None:
    summary = say(config(folder, tmp_path / "whole"))
    assert summary is not None and (summary["utterances"], summary["rejected"]) == (4, 1)
    (rejected,) = read_jsonl(tmp_path / "whole" / "rejected.jsonl")
    assert rejected["id"] == "0005" and "'ü'" in rejected["detail"]
    cuts = list(load_cuts(tmp_path / "whole"))
    assert [cut.supervisions[0].text for cut in cuts] == TEXTS
    custom = cuts[0].supervisions[0].custom
    assert len(custom["tokens"].split()) == pytest.approx(cuts[0].duration * custom["frame_rate_hz"])
    # Cut short: two of the sentences are not noted, as after a kill.
    say(config(folder, tmp_path / "killed"))
    for name in ("0002", "0003"):
        (tmp_path / "killed" / "progress" / f"{name}.json").unlink()
    (tmp_path / "killed" / "cuts.jsonl.gz").unlink()
    again = say(config(folder, tmp_path / "killed"))
    assert again is not None and again["speech_s"] == summary["speech_s"]
    whole, killed = (tree(tmp_path / name) for name in ("whole", "killed"))
    del whole["summary.json"], killed["summary.json"]
    assert whole == killed and len(whole) == 11


def test_a_list_that_got_shorter_is_counted_anew(folder: Path, tmp_path: Path) -> None:
    """Nothing is said, so how fast it went is that of before."""
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    whole = config(folder, tmp_path / "said", texts=str(tmp_path / "texts.txt"))
    first = say(whole)
    assert first is not None and say(whole) == first
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS[:2]))
    shorter = say(whole)
    assert shorter is not None and shorter == read_json(tmp_path / "said" / "summary.json")
    duration_s = sum(cut.duration for cut in load_cuts(tmp_path / "said"))
    assert (shorter["utterances"], shorter["speech_s"]) == (2, pytest.approx(duration_s, abs=1e-3))
    assert shorter["speech_s"] < first["speech_s"] and shorter["real_time_factor"] == first["real_time_factor"]
    (tmp_path / "texts.txt").write_text("ü")
    none = say(whole)
    assert none is not None and (none["utterances"], none["rejected"], none["speech_s"]) == (0, 1, 0.0)


def test_bad_sentences_are_pointed_at(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts.txt").write_text("ünknown")
    options = ["--out", str(tmp_path / "said"), "--vocoder", str(folder / "vocoder"), "--device", "cpu"]
    assert main([str(folder / "tts"), "--texts", str(tmp_path / "texts.txt"), *options]) == 1
    assert f"1 rejected (see {tmp_path}/said/rejected.jsonl)" in capsys.readouterr().out


def test_mini_is_the_installed_model(folder: Path, tmp_path: Path) -> None:
    """A folder that is called so is "./mini"."""
    assert config(folder, tmp_path, words=("mini",)).folder.parts[-2:] == ("models", "tts-mini")
    assert config(folder, tmp_path, words=("./mini",)).folder == Path("mini")


def test_another_seed_or_model_says_it_again(folder: Path, tmp_path: Path) -> None:
    options = {"temperature": 1.0, "words": (str(folder / "masked"),), "rounds": 2}
    say(config(folder, tmp_path, **options))
    first = tree(tmp_path / "audio")
    say(config(folder, tmp_path, **options, seed=1))
    assert tree(tmp_path / "audio") != first
    say(config(folder, tmp_path, **options, seed=0))
    assert tree(tmp_path / "audio") == first


def test_a_reference_is_a_voice(folder: Path, tmp_path: Path) -> None:
    """Matched frames are those of the reference; with blend 0 nothing of it is left."""
    options = {"vocoder": str(folder / "features"), "voice": str(folder / "reference.wav")}
    made = {}
    for blend in (1.0, 0.7, 0.0):
        out = tmp_path / f"{blend}.wav"
        say(config(folder, out, "the cat", blend=blend, **options))
        made[blend] = sf.read(out)[0]
    assert len({len(samples) for samples in made.values()}) == 1
    assert not np.allclose(made[1.0], made[0.0]) and not np.allclose(made[1.0], made[0.7])
    talker = open_talker(config(folder, tmp_path / "x.wav", "the cat", blend=0.0, **options))
    ((tokens, samples),) = [said for said in talker.say(["the cat"]) if not isinstance(said, BadText)]
    frames = torch.from_numpy(toy_tokenizer().centroids(tokens.codes))
    np.testing.assert_array_equal(samples, Vocoder.load(folder / "features", device="cpu").from_features(frames))


def test_what_does_not_go_together_is_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.wav"
    with pytest.raises(ConfigError, match="one sentence becomes one"):
        config(folder, tmp_path / "a.flac", "a cat")
    with pytest.raises(ConfigError, match="give the model's folder"):
        config(folder, out, "a", "cat")
    with pytest.raises(ConfigError, match="--blend is for --voice"):
        config(folder, out, "a cat", blend=0.5)
    with pytest.raises(ConfigError, match="--upstream is for --voice, or for a --speaker"):
        config(folder, out, "a cat", upstream="mfcc")
    with pytest.raises(BadText, match="'ü'"):
        say(config(folder, out, "ünknown"))
    with pytest.raises(ConfigError, match="neither this model nor this vocoder"):
        say(config(folder, out, "a cat", speaker="ann"))
    toy = toy_tokenizer(12)
    facts = replace(token_facts(toy.vocab_sizes), tokenizer=toy.fingerprint)
    tiny_vocoder(tiny_config("harmonic"), facts).save(tmp_path / "other")
    with pytest.raises(TokenizerMismatch, match="vocoder"):
        say(config(folder, out, "a cat", vocoder=str(tmp_path / "other")))
    with pytest.raises(TokenizerMismatch, match="features"):
        tiny_vocoder(tiny_config("harmonic"), feature_facts(8, "f" * 64)).save(tmp_path / "strange")
        say(config(folder, out, "a cat", vocoder=str(tmp_path / "strange"), voice=str(folder / "reference.wav")))
    assert read_json(folder / "tts" / "tts.json")["fingerprint"] == toy_tokenizer().fingerprint


def test_a_vocoder_that_is_told_who_speaks(folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The only speaker of the training is the default; otherwise a name or a recording is needed."""
    measure = load_speaker_model("mini")
    hop = int(RATE / tokenizer.frame_rate_hz)
    facts = token_facts(
        tokenizer.vocab_sizes, tokenizer.fingerprint, hop_samples=hop,
        speaker_width=measure.width, speaker_model=measure.fingerprint,
    )  # fmt: skip
    tiny_vocoder(tiny_config("harmonic", speaker="embedding"), facts).save(tmp_path / "vocoder")
    home = tmp_path / "tts"
    shutil.copytree(folder / "tts", home)
    options = {"words": (str(home), "a cat"), "vocoder": str(tmp_path / "vocoder")}
    with pytest.raises(ConfigError, match="give --speaker"):
        say(config(folder, tmp_path / "a.wav", "a cat", **options))
    cut = load_cuts(folder / "reference.wav")[0]
    cut.supervisions = [SupervisionSegment(cut.id, cut.recording.id, 0, cut.duration, speaker="ann")]
    TrainedVoices.measure([cut], measure).save(home)
    say(config(folder, tmp_path / "default.wav", "a cat", **options))
    say(config(folder, tmp_path / "named.wav", "a cat", speaker="ann", **options))
    say(config(folder, tmp_path / "heard.wav", "a cat", speaker=str(folder / "reference.wav"), **options))
    sf.write(tmp_path / "other.wav", toy_speech(2.0, seed=8)[0], RATE)
    say(config(folder, tmp_path / "changed.wav", "a cat", speaker=str(tmp_path / "other.wav"), **options))
    made = {name: sf.read(tmp_path / f"{name}.wav")[0] for name in ("default", "named", "heard", "changed")}
    np.testing.assert_array_equal(made["default"], made["named"])
    np.testing.assert_allclose(made["default"], made["heard"], atol=1e-3)
    assert not np.allclose(made["default"], made["changed"], atol=1e-3)
