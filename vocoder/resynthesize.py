"""`voxtok resynthesize`: audio -> tokens -> audio in one call, to hear what tokens keep."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from voxtok.manifests.audio import Samples, read_audio
from voxtok.manifests.cuts import load_cuts
from voxtok.runtime.config import parse
from voxtok.runtime.errors import BadAudio, ConfigError, ManifestError
from voxtok.tokenize.tokenizer import Tokenizer
from voxtok.vocoder.audio_folder import write_wav
from voxtok.vocoder.features import features_fingerprint
from voxtok.vocoder.vocoder import Vocoder
from voxtok.vocoder.voices import SOURCE, Voices, check_streams


@dataclass(frozen=True, kw_only=True)
class ResynthesizeConfig:
    """Turn recordings into tokens and back."""

    tokenizer: str
    """Tokenizer folder."""
    vocoder: str
    """Vocoder folder for its tokens, or with --through features for their features; or mini."""
    out: str
    """Folder to write: one .wav of the same name for each file."""
    files: tuple[str, ...] = ()
    """Audio files."""
    speaker: str = SOURCE
    """Who speaks, where the vocoder is told: source, a name that it knows, or a recording of a speaker."""
    speaker_model: str = "mini"
    """What measures speakers, where the vocoder takes embeddings: the one that it was trained with."""
    through: Literal["tokens", "features"] = "tokens"
    """features leaves out the quantizer, to hear what the vocoder alone does."""
    streams: tuple[int, ...] = ()
    """Token streams to use; empty uses all."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""

    def __post_init__(self) -> None:
        if not self.files:
            raise ConfigError("give audio files")
        names = [Path(file).stem for file in self.files]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ConfigError(f"two files are called {twice[0]}: they would be written to one name")


def resynthesize(
    samples: Samples,
    sampling_rate: int,
    tokenizer: Tokenizer,
    voices: Voices,
    *,
    through: Literal["tokens", "features"] = "tokens",
    streams: Sequence[int] = (),
) -> Samples:
    """A recording through tokens and back, (T,) float32 at the vocoder's rate; T is a whole number of frames.

    Args:
        samples: (num_samples,) or (channels, num_samples).
        sampling_rate: of `samples`, Hz.
        tokenizer: makes the tokens.
        voices: who speaks, and the vocoder.
        through: "features" leaves out the quantizer.
        streams: token streams to use; empty uses all.

    Raises:
        TokenizerMismatch: a vocoder for other tokens or features.
        ConfigError: too short for one frame, or to measure its speaker on.
    """
    vocoder = voices.vocoder
    speaker = voices.of_samples(samples, sampling_rate)
    if through == "features":
        vocoder.check_features(features_fingerprint(tokenizer.upstream, tokenizer.config.layers))
        return vocoder.from_features(tokenizer.features(samples, sampling_rate), speaker=speaker)
    vocoder.check_tokenizer(tokenizer.fingerprint)
    tokens = tokenizer.encode(samples, sampling_rate)
    return vocoder.from_tokens(tokens, speaker=speaker, streams=check_streams(vocoder, streams))


def main(argv: Sequence[str]) -> int:
    """`voxtok resynthesize a.wav b.wav --tokenizer TOKENIZER --vocoder VOCODER --out FOLDER`."""
    config = parse(ResynthesizeConfig, argv, "voxtok resynthesize", positional="files")
    tokenizer = Tokenizer.load(config.tokenizer, device=config.device)
    vocoder = Vocoder.load(config.vocoder, device=config.device)
    if config.through == "tokens":
        vocoder.check_tokenizer(tokenizer.fingerprint)
    voices = Voices(vocoder, config.speaker, config.speaker_model)
    failed = 0
    for file in config.files:
        path = Path(config.out) / f"{Path(file).stem}.wav"
        try:
            cut = next(iter(load_cuts(file)))
            rate = tokenizer.upstream.sampling_rate
            samples = read_audio(cut, rate)
            made = resynthesize(samples, rate, tokenizer, voices, through=config.through, streams=config.streams)
        except (BadAudio, ManifestError, ConfigError) as error:
            print(f"{file}: {error}", file=sys.stderr)
            failed = 1
            continue
        write_wav(path, made, vocoder.sampling_rate)
        print(path)
    return failed
