"""`voxtok continue`: a spoken prompt -> how a unit language model goes on, as speech."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from voxtok.manifests.audio import describe, read_span
from voxtok.manifests.tokens import TokenSequence
from voxtok.runtime.config import parse
from voxtok.runtime.errors import ConfigError, TokenizerMismatch
from voxtok.tokenize.tokenizer import Tokenizer
from voxtok.tokenize.tokenizer_folder import read_description, tokenizer_folder
from voxtok.tts.forms import check_form, has_merged_units, timed_for, tokens_for
from voxtok.tts.lm import UnitLm
from voxtok.tts.sampling import Drawn, SamplingConfig, draw_utterances, unconditional
from voxtok.tts.stop_rules import StopRules
from voxtok.vocoder.audio_folder import write_wav
from voxtok.vocoder.conditions import Speaker
from voxtok.vocoder.speaker import load_speaker_model
from voxtok.vocoder.vocoder import Vocoder


@dataclass(frozen=True, kw_only=True)
class ContinueConfig:
    """Continue a recording: `voxtok continue LM AUDIO --vocoder FOLDER --out FILE.wav ...`."""

    inputs: tuple[str, ...]
    """Language model folder and the recording to go on from."""
    vocoder: str
    """Vocoder folder for the model's tokens."""
    out: str
    """A .wav file; of several samples, the number goes before the suffix."""
    sampling: SamplingConfig
    """How tokens are drawn; sampling.temperature is required."""
    stop: StopRules
    """When a continuation ends; stop.max-s is required."""
    prompt_s: float | None = None
    """Go on from the first so many seconds; null takes the whole recording."""
    samples: int = 1
    """Continuations to draw."""
    keep_prompt: bool = True
    """Begin with the prompt, as the vocoder says it; false writes the continuation alone."""
    speaker: str | None = None
    """Speaker of a vocoder with a table of them; one that takes an embedding is given the prompt's."""
    speaker_model: str = "mini"
    """What measures that embedding: mini, or a folder."""
    tokenizer: str | None = None
    """Tokenizer folder, or mini; null takes the one beside the model."""
    upstream: str | None = None
    """Another place of the tokenizer's SSL model."""
    seed: int = 0
    """Of the first continuation; the next ones count on from it."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""

    def __post_init__(self) -> None:
        if len(self.inputs) != 2:
            raise ConfigError("give a language model folder and a recording: voxtok continue LM AUDIO ...")
        if self.seed < 0:
            raise ConfigError("seed must be at least 0")
        if self.samples < 1:
            raise ConfigError("samples must be at least 1")
        if self.prompt_s is not None and self.prompt_s <= 0:
            raise ConfigError("prompt-s must be positive")
        if Path(self.out).suffix.lower() != ".wav":
            raise ConfigError(f"--out {self.out}: a continuation is a .wav file")


def continue_file(config: ContinueConfig) -> list[tuple[Path, Drawn]]:
    """Draw continuations of a recording and write them.

    Raises:
        BadAudio: the recording cannot be read.
        TokenizerMismatch: tokenizer or vocoder are not those of the model.
    """
    folder, recording = config.inputs
    lm = UnitLm.load(folder, device=config.device)
    vocoder = Vocoder.load(config.vocoder, device=config.device)
    beside, untimed = tokenizer_of(lm, folder, config.tokenizer), lm.layout.rows == "merged"
    check_form(lm.layout.frame_rate_hz, lm.fingerprint, beside, vocoder, untimed=untimed)
    tokenizer = Tokenizer.load(beside, device=config.device, upstream=config.upstream)
    samples = read_prompt(recording, tokenizer.upstream.sampling_rate, config.prompt_s)
    prompt = tokenizer.encode(samples, tokenizer.upstream.sampling_rate)
    seeds = [config.seed + number for number in range(config.samples)]
    prompts, rules = [unconditional(lm, prompt)] * len(seeds), [config.stop] * len(seeds)
    every = draw_utterances(lm, prompts, config.sampling, rules, seeds)
    voice = voice_of(vocoder, config, recording)
    written = []
    for number, drawn in enumerate(every, start=1):
        spoken = timed_for(drawn.tokens, beside, vocoder, untimed=untimed)
        audio = vocoder.from_tokens(spoken, speaker=voice)
        if not config.keep_prompt:
            predicted = untimed and has_merged_units(beside)
            frames = frames_of_prompt(drawn, spoken, beside, vocoder) if predicted else prompt.num_frames
            audio = audio[min(frames * vocoder.hop_samples, len(audio) - 1) :]
        path = Path(config.out)
        path = path if config.samples == 1 else path.with_stem(f"{path.stem}-{number}")
        write_wav(path, audio, vocoder.sampling_rate)
        written.append((path, drawn))
    return written


def frames_of_prompt(drawn: Drawn, spoken: TokenSequence, tokenizer: Path, vocoder: Vocoder) -> int:
    """Frames of what is spoken that merged units of the prompt were predicted to last."""
    given = replace(drawn.tokens, codes=drawn.tokens.codes[: drawn.prompt_rows])
    units = len(tokens_for(given, tokenizer, vocoder.facts.tokenizer or "", untimed=True))
    return int(spoken.spans()[:units, 1].max(initial=0))


def tokenizer_of(lm: UnitLm, folder: Path | str, tokenizer: str | None) -> Path:
    """The tokenizer's folder: the one given, or the one beside the model.

    Raises:
        ConfigError: neither.
        TokenizerMismatch: it is not the one that the model was trained with.
    """
    beside = tokenizer_folder(tokenizer or Path(folder) / "tokenizer")
    if not (beside / "tokenizer.json").exists():
        raise ConfigError(f"{beside} is no tokenizer folder: give the model's with --tokenizer")
    found = read_description(beside)["fingerprint"]
    if found != lm.fingerprint:
        raise TokenizerMismatch(
            f"{beside} is tokenizer {found[:12]}, and the model in {folder} was trained on tokens of "
            f"{lm.fingerprint[:12]}: give that one with --tokenizer, or train the model again"
        )
    return beside


def read_prompt(recording: str, sampling_rate: int, prompt_s: float | None) -> npt.NDArray[np.float32]:
    """The first `prompt_s` seconds of a recording, or all of it."""
    cut = describe(Path(recording), Path(recording).stem).to_cut()
    duration_s = cut.duration if prompt_s is None else min(prompt_s, cut.duration)
    samples: npt.NDArray[np.float32] = read_span(cut, sampling_rate, 0, int(duration_s * sampling_rate))
    return samples


def voice_of(vocoder: Vocoder, config: ContinueConfig, recording: str) -> Speaker | None:
    """Who a vocoder is to sound like: the speaker that was named, or the voice of the recording.

    Raises:
        TokenizerMismatch: the vocoder was trained with another speaker model.
    """
    if vocoder.model.config.speaker != "embedding":
        return config.speaker
    model = load_speaker_model(config.speaker_model, device=config.device)
    if model.fingerprint != vocoder.facts.speaker_model:
        raise TokenizerMismatch(
            f"this vocoder knows voices by another speaker model than {config.speaker_model!r}: "
            "give the one that it was trained with as --speaker-model"
        )
    return model.embed(read_prompt(recording, model.sampling_rate, None))


def main(argv: Sequence[str]) -> int:
    """`voxtok continue LM AUDIO --vocoder FOLDER --out FILE.wav --sampling.temperature T --stop.max-s S`."""
    config = parse(ContinueConfig, argv, "voxtok continue", positional="inputs")
    for path, drawn in continue_file(config):
        nats = drawn.nats / max(drawn.decisions, 1)
        print(f"{path}: {drawn.tokens.duration_s:.2f} s, ended by {drawn.ended}, {nats:.2f} nats a token")
    return 0
