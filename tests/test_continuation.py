"""`voxtok continue`: from a recording to a longer one, through tokenizer, language model and vocoder."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from tests.tiny_vocoder import tiny_config, tiny_vocoder, token_facts
from tests.toy_corpus import write_toy_corpus
from tests.toy_lm import toy_layout
from tests.toy_tokenizer import toy_tokenizer
from voxtok.manifests.cuts import load_cuts
from voxtok.manifests.subwords import train_subwords
from voxtok.manifests.tokens import TokenSequence
from voxtok.runtime.commands import main
from voxtok.runtime.errors import ConfigError, TokenizerMismatch
from voxtok.tokenize.encode import encode_corpus
from voxtok.tokenize.tokenizer import Tokenizer
from voxtok.tokenize.train import TrainConfig
from voxtok.tts.continuation import ContinueConfig, continue_file
from voxtok.tts.forms import has_merged_units, tokens_for, units_of
from voxtok.tts.layout import Layout, Rows
from voxtok.tts.lm import LmShape
from voxtok.tts.sampling import SamplingConfig
from voxtok.tts.stop_rules import StopRules
from voxtok.tts.train_lm import TrainLmConfig, train_lm

VOCAB_SIZE = 20


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, its tokens, a language model of frames and a vocoder, all tiny and untrained or nearly so."""
    folder = tmp_path_factory.mktemp("made")
    cuts = load_cuts(write_toy_corpus(folder / "corpus", [1.0, 1.2, 1.4]))
    tokenizer = toy_tokenizer(VOCAB_SIZE)
    encode_corpus(cuts, tokenizer, folder / "tokens", shard_size=4)
    train_lm(lm_config(folder))
    facts = token_facts((VOCAB_SIZE,), tokenizer.fingerprint, hop_samples=160)
    tiny_vocoder(tiny_config("phases"), facts).save(folder / "vocoder")
    return folder


def lm_config(folder: Path) -> TrainLmConfig:
    return TrainLmConfig(
        stores=(str(folder / "tokens"),),
        out=str(folder / "lm"),
        rows="frames",
        pattern="parallel",
        model=LmShape(blocks=1, width=16, heads=2, feed_forward=24, context_steps=256),
        batch_steps=256,
        train=TrainConfig(steps=2, peak_lr=1e-2, warmup_steps=1, decay_share=0.0),
        device="cpu",
    )


def config(made: Path, out: Path, **changes: object) -> ContinueConfig:
    whole = ContinueConfig(
        inputs=(str(made / "lm"), str(made / "corpus" / "audio" / "utt000.wav")),
        vocoder=str(made / "vocoder"),
        out=str(out),
        sampling=SamplingConfig(temperature=1.0),
        stop=StopRules(max_s=0.5, min_s=0.4, loop_s=9.0, stuck_tokens=0),
        prompt_s=0.5,
        device="cpu",
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


def test_a_recording_is_continued_from_the_command_line(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["continue", str(made / "lm"), str(made / "corpus" / "audio" / "utt000.wav"), "--device", "cpu"]
    words += ["--vocoder", str(made / "vocoder"), "--out", str(tmp_path / "b.wav"), "--prompt-s", "0.5"]
    words += ["--sampling.temperature", "1.0", "--stop.max-s", "0.5", "--stop.min-s", "0.4", "--stop.stuck-tokens", "0"]
    assert main(words) == 0
    assert "ended by" in capsys.readouterr().out
    samples, rate = sf.read(tmp_path / "b.wav")
    assert rate == 16000
    assert 0.85 <= len(samples) / rate <= 1.02
    (found,) = continue_file(config(made, tmp_path / "again.wav"))
    assert (tmp_path / "again.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    prompt, _ = sf.read(made / "corpus" / "audio" / "utt000.wav", stop=8000)
    tokenizer = Tokenizer.load(made / "lm" / "tokenizer", device="cpu")
    expected = tokenizer.encode(prompt, 16000)
    assert found[1].tokens.codes[: len(expected)].tolist() == expected.codes.tolist()


def test_samples_differ_and_the_prompt_can_be_left_out(made: Path, tmp_path: Path) -> None:
    every = continue_file(config(made, tmp_path / "b.wav", samples=2))
    assert [path.name for path, _ in every] == ["b-1.wav", "b-2.wav"]
    assert every[0][1].tokens.codes.tolist() != every[1][1].tokens.codes.tolist()
    continue_file(config(made, tmp_path / "c.wav", keep_prompt=False))
    whole, _ = sf.read(tmp_path / "b-1.wav")
    rest, _ = sf.read(tmp_path / "c.wav")
    assert rest.tolist() == whole[len(whole) - len(rest) :].tolist()
    assert 0.4 <= len(rest) / 16000 <= 0.52


def test_merged_units_last_as_the_vocoder_predicts(made: Path, tmp_path: Path) -> None:
    """With the prompt left out what remains is what was drawn, at its predicted length."""
    train_lm(replace(lm_config(made), rows="merged", out=str(tmp_path / "lm")))
    tokenizer = Tokenizer.load(tmp_path / "lm" / "tokenizer", device="cpu").with_dedup(True)
    facts = token_facts((VOCAB_SIZE,), tokenizer.fingerprint, hop_samples=160)
    tiny_vocoder(tiny_config("phases"), facts).save(tmp_path / "no-durations")
    vocoder = tiny_vocoder(tiny_config("phases", durations=True), facts)
    assert vocoder.model.durations is not None
    torch.nn.init.constant_(vocoder.model.durations.out.bias, 1.0)
    vocoder.save(tmp_path / "vocoder")
    whole = config(made, tmp_path / "a.wav", vocoder=str(tmp_path / "vocoder"))
    whole = replace(whole, inputs=(str(tmp_path / "lm"), whole.inputs[1]))
    ((_, drawn),) = continue_file(whole)
    durations = vocoder.lasting(replace(drawn.tokens, fingerprint=tokenizer.fingerprint)).durations
    assert drawn.tokens.durations is None and durations is not None
    assert durations.max() > 1 and 0 < drawn.prompt_rows < len(drawn.tokens)
    assert sf.info(tmp_path / "a.wav").frames == durations.sum() * 160
    continue_file(replace(whole, out=str(tmp_path / "b.wav"), keep_prompt=False))
    assert sf.info(tmp_path / "b.wav").frames == durations[drawn.prompt_rows :].sum() * 160
    with pytest.raises(ConfigError, match="vocoder that predicts them"):
        continue_file(replace(whole, vocoder=str(tmp_path / "no-durations")))


def test_what_does_not_belong_together_is_refused(made: Path, tmp_path: Path) -> None:
    toy_tokenizer(VOCAB_SIZE + 1).save(tmp_path / "other")
    with pytest.raises(TokenizerMismatch, match="give that one with --tokenizer"):
        continue_file(config(made, tmp_path / "b.wav", tokenizer=str(tmp_path / "other")))
    with pytest.raises(ConfigError, match="no tokenizer folder"):
        continue_file(config(made, tmp_path / "b.wav", tokenizer=str(tmp_path / "nothing")))
    tiny_vocoder(tiny_config("phases"), token_facts((VOCAB_SIZE,))).save(tmp_path / "vocoder")
    with pytest.raises(TokenizerMismatch, match="vocoder for tttttttttttt"):
        continue_file(config(made, tmp_path / "b.wav", vocoder=str(tmp_path / "vocoder")))
    for wrong, message in (
        ({"inputs": ("lm",)}, "a language model folder and a recording"),
        ({"samples": 0}, "samples"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"prompt_s": 0.0}, "prompt-s"),
        ({"out": "b.mp3"}, "is a .wav file"),
    ):
        with pytest.raises(ConfigError, match=message):
            replace(config(made, tmp_path / "b.wav"), **wrong)


def layout_of(tokenizer: Tokenizer, rows: Rows) -> Layout:
    return replace(
        toy_layout(),
        rows=rows,
        max_duration_frames=50,
        vocab_sizes=tokenizer.vocab_sizes,
        fingerprint=tokenizer.fingerprint,
        has_durations=tokenizer.config.dedup or tokenizer.subwords is not None,
        pieces=tokenizer.subwords is not None,
    )


def test_one_codebook_speaks_in_every_form(tmp_path: Path) -> None:
    """Frames, merged units, and pieces of either reach a vocoder of frames as the same frames."""
    frames = toy_tokenizer(VOCAB_SIZE)
    merged = frames.with_dedup(True)
    changes = np.random.default_rng(0).integers(1, VOCAB_SIZE, size=(200, 1))  # no two runs in a row are equal
    codes = (changes.cumsum(axis=0) % VOCAB_SIZE).repeat(2, axis=0)
    pieces = {}
    for name, one in (("frames", frames), ("merged", merged)):
        sequence = one.sequence(codes)
        subwords = train_subwords(
            [sequence.codes[:, 0]], unit_vocab_size=VOCAB_SIZE, vocab_size=VOCAB_SIZE + 10, kind="bpe"
        )
        pieces[name] = one.with_bpe(subwords)
    expected = frames.sequence(codes)
    for number, tokenizer in enumerate((frames, merged, pieces["frames"], pieces["merged"])):
        tokenizer.save(tmp_path / str(number))
        layout = layout_of(tokenizer, "timed")
        drawn = layout.tokens_of(layout.rows_of(tokenizer.sequence(codes)))
        found = tokens_for(drawn, tmp_path / str(number), frames.fingerprint, untimed=False)
        assert found.fingerprint == frames.fingerprint
        assert found.codes.tolist() == expected.codes.tolist() and found.durations is None
        spoken = tokens_for(drawn, tmp_path / str(number), merged.fingerprint, untimed=False)
        assert spoken.expand().codes.tolist() == expected.codes.tolist() and spoken.durations is not None
        if tokenizer is not pieces["frames"]:  # whose pieces say how long they are
            untimed = layout_of(tokenizer, "merged")
            drawn = untimed.tokens_of(untimed.rows_of(tokenizer.sequence(codes)))
            with pytest.raises(ConfigError, match="units without durations"):
                tokens_for(drawn, tmp_path / str(number), frames.fingerprint, untimed=True)
            found = tokens_for(drawn, tmp_path / str(number), merged.fingerprint, untimed=True)
            assert found.codes.tolist() == expected.dedup().codes.tolist() and found.durations is None
    untimed = layout_of(pieces["frames"], "merged")
    drawn = untimed.tokens_of(untimed.rows_of(pieces["frames"].sequence(codes)))
    assert [has_merged_units(tmp_path / str(number)) for number in range(4)] == [True, True, False, True]
    found = tokens_for(drawn, tmp_path / "2", frames.fingerprint, untimed=True)
    assert found.codes.tolist() == expected.codes.tolist()
    assert tokens_for(drawn, tmp_path / "2", "other", untimed=True) is drawn


def test_a_pieces_frames_are_shared_by_its_units() -> None:
    """The worked example: units 7 7 2 over 8 frames last 3, 3 and 2."""
    units = [np.array([1, 0, 1] * 20)]
    subwords = train_subwords(units, unit_vocab_size=2, vocab_size=4, kind="bpe")
    longest = int(subwords.lengths.argmax())
    count = int(subwords.lengths[longest])
    piece = TokenSequence(np.array([[longest]], dtype=np.uint8), 50.0, "f", np.array([3 * count - 1], dtype=np.uint8))
    codes, durations = units_of(piece, subwords, merged=True)
    assert codes[:, 0].tolist() == subwords.decode([longest]).tolist()
    assert durations is not None and durations.tolist() == [3] * (count - 1) + [2]
