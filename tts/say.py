"""`voxtok say`: text -> tokens -> waveform, in one call: a sentence to a file, or many to a folder and its manifest.

out/audio/*.wav, cuts.jsonl.gz    the speech; the supervisions have the texts, and the tokens in their custom fields
out/rejected.jsonl                what could not be said, and why
out/summary.json                  counts, failures, seconds of speech, real-time factor
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from voxtok.manifests.cuts import load_cuts
from voxtok.manifests.tokens import TokenSequence
from voxtok.runtime.config import parse
from voxtok.runtime.distributed import Ranks, ranks_from_environment
from voxtok.runtime.errors import BadAudio, BadText, ConfigError
from voxtok.runtime.files import read_json, sha256, weights_hash, write_json
from voxtok.runtime.progress import Progress
from voxtok.tts.failures import failure_of
from voxtok.tts.lm import UnitLm
from voxtok.tts.refinement import Decoding
from voxtok.tts.sentences import count_failures, read_sentences, said_text, with_tokens
from voxtok.tts.synthesizer import Speaker, Synthesizer, tts_folder
from voxtok.tts.text_to_tokens import AtOnce, OneByOne, TextToTokens, is_lm, key_of_model, tokens_of_recording
from voxtok.tts.tts_lm import Drawing, LmSynthesizer
from voxtok.tts.voice import Voice, reference_voice, vocoder_voice
from voxtok.vocoder.audio_folder import AudioFolder, Order, write_wav
from voxtok.vocoder.conversion import Blend
from voxtok.vocoder.matching import Weighting
from voxtok.vocoder.reference import reference_cuts
from voxtok.vocoder.speaker import load_speaker_model, mean_embedding

AT_ONCE = 32
"""Sentences whose tokens are made together; changes no result."""


@dataclass(frozen=True, kw_only=True)
class SayConfig:
    """Say a sentence, or every sentence of a file: voxtok say mini "Hello, world!" --out hello.wav."""

    words: tuple[str, ...] = ()
    """The folder of `voxtok train-tts` or `train-tts-lm`, or mini, the model that is installed with voxtok; then the
    sentence, which is left out for --texts."""
    texts: str | None = None
    """A text file with a sentence a line, or Lhotse cuts, whose ids are kept."""
    text_field: str = "text"
    """Of the cuts: text, or the custom field of the supervisions that has it, such as raw_text."""
    out: str
    """A .wav file for one sentence, else a folder; run again to go on where a killed job stopped."""
    vocoder: str = "mini"
    """Vocoder folder, or the one that is installed; of the model's tokens, or with --voice of their features."""
    voice: str | None = None
    """Speak in this voice: a pool that `voxtok pool` wrote, an audio file, a folder of them, or Lhotse cuts."""
    blend: float = 1.0
    """With --voice: 1 is that voice, 0 what the tokens' own frames sound like; between them features are mixed."""
    k: int = 4
    """With --voice: frames of the reference whose mean takes the place of a frame."""
    weighting: Weighting = "uniform"
    """With --voice: uniform, or distance: nearer frames weigh more."""
    upstream: str | None = None
    """With --voice, or a --speaker in whose voice a language model goes on: another place of the tokenizer's SSL model,
    which hears that recording."""
    speaker: str | None = None
    """For a model or vocoder with speakers: the name of one, or for embeddings a recording of the speaker. Where a
    vocoder needs one, the only speaker that the model was trained on is the default."""
    speaker_model: str = "mini"
    """What measures an embedding on the recording: mini or a folder."""
    rounds: int = 8
    """Rounds of refinement, for a model with decoder masked."""
    temperature: float = 0.0
    """Of the tokens; 0 takes the likeliest."""
    speed: float = 1.0
    """2 speaks twice as fast as the training speech; not for a language model."""
    drawing: Drawing | None = None
    """For a language model, which needs it: drawing.sampling.temperature, top-k, top-p, drawing.candidates, ..."""
    rescorer: str | None = None
    """Folder of a unit language model that helps to choose among drawing.candidates, by drawing.rescorer-weight."""
    seed: int = 0
    """Of what is drawn; a sentence's does not depend on the others."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""

    def __post_init__(self) -> None:
        if len(self.words) != (1 if self.texts else 2):
            raise ConfigError('give the model\'s folder and one sentence: voxtok say exp/tts "text", or --texts FILE')
        if not self.texts and Path(self.out).suffix.lower() != ".wav":
            raise ConfigError(f"--out {self.out}: one sentence becomes one .wav file")
        if not 0 <= self.blend <= 1:
            raise ConfigError("--blend is a share: 0 .. 1")
        if self.voice is None and self.blend != 1:
            raise ConfigError("--blend is for --voice")
        if self.voice is None and self.speaker is None and self.upstream is not None:
            raise ConfigError("--upstream is for --voice, or for a --speaker")
        if self.speed <= 0:
            raise ConfigError("--speed must be positive")
        if self.rescorer is not None and self.drawing is None:
            raise ConfigError("--rescorer chooses among what --drawing draws")

    @property
    def folder(self) -> Path:
        """Of the model."""
        return tts_folder(self.words[0])

    @property
    def decoding(self) -> Decoding:
        """How tokens are chosen."""
        return Decoding(rounds=self.rounds, temperature=self.temperature)


@dataclass(frozen=True, eq=False)
class Talker:
    """A model and a voice: sentences to speech.

    Example:
        talker = open_talker(SayConfig(words=("exp/tts", "Hello"), out="hello.wav"))
        ((tokens, samples),) = talker.say(["Hello"])

    Attributes:
        model: text to tokens.
        voice: tokens to waveform.
    """

    model: TextToTokens
    voice: Voice

    def say(self, texts: Sequence[str]) -> list[tuple[TokenSequence, Any] | BadText]:
        """Tokens and waveform of each sentence, or what is wrong with it; they do not depend on the others."""
        tokens = self.model.tokens(texts)
        return [one if isinstance(one, BadText) else (one, self.voice.speak(one)) for one in tokens]


def open_talker(config: SayConfig) -> Talker:
    """Load what `config` names.

    Raises:
        CorruptFile: a folder that is not what it should be.
        TokenizerMismatch: a vocoder or a voice of other tokens or features.
        ConfigError: a speaker where there are none, or the other way round.
    """
    folder = config.folder
    model, speaker = _open_lm(config, folder) if is_lm(folder) else _open_synthesizer(config, folder)
    voice: Voice
    if config.voice is None:
        voice = vocoder_voice(
            config.vocoder, model, folder, speaker, speaker_model=config.speaker_model, device=config.device
        )
    elif model.untimed:
        raise ConfigError("--voice needs tokens with durations: train the model with rows frames or timed")
    else:
        blend = Blend(k=config.k, weighting=config.weighting, keep_source=1 - config.blend)
        voice = reference_voice(
            config.voice,
            config.vocoder,
            folder / "tokenizer",
            blend,
            upstream=config.upstream,
            speaker_model=config.speaker_model,
            device=config.device,
        )
    if config.speaker is not None and model.speaker is None and not voice.takes_speakers:
        raise ConfigError("neither this model nor this vocoder is told who speaks: leave out --speaker")
    return Talker(model, voice)


def _open_synthesizer(config: SayConfig, folder: Path) -> tuple[AtOnce, Speaker | None]:
    """A model of `voxtok train-tts`, and what a vocoder is told of who speaks."""
    if config.drawing is not None:
        raise ConfigError(f"--drawing is for language models, and {folder} is none: use --temperature and --rounds")
    model = Synthesizer.load(folder, device=config.device)
    speaker = _speaker(config, model)
    told = speaker if model.network.shape.speaker != "none" else None
    return AtOnce(model, config.decoding, told, config.speed, config.seed), speaker


def _open_lm(config: SayConfig, folder: Path) -> tuple[OneByOne, Speaker | None]:
    """A model of `voxtok train-tts-lm`, and what a vocoder is told of who speaks."""
    if config.drawing is None:
        raise ConfigError(f"{folder} is a language model: say how it draws, at least --drawing.sampling.temperature")
    if config.speed != 1 or config.temperature != 0:
        raise ConfigError("--speed and --temperature are not for a language model: see --drawing")
    model = LmSynthesizer.load(folder, device=config.device)
    rescorer = UnitLm.load(config.rescorer, device=config.device) if config.rescorer else None
    key = weights_hash(config.rescorer or None)
    speaker: str | TokenSequence | None = config.speaker if model.conditions.voice == "table" else None
    if model.conditions.voice == "prompt" and config.speaker is not None:
        speaker = tokens_of_recording(config.speaker, folder / "tokenizer", config.device, config.upstream)
    return OneByOne(model, config.drawing, speaker, rescorer, key, config.seed), config.speaker


def say(config: SayConfig, ranks: Ranks | None = None) -> dict[str, Any] | None:
    """Say one sentence to a file, or many to a folder, or complete a folder that was begun.

    Returns:
        Counts, seconds of speech and real-time factor, or None while other ranks still have sentences to say.

    Raises:
        BadText: the one sentence cannot be said.
    """
    begun = time.perf_counter()
    talker = open_talker(config)
    loaded = time.perf_counter()
    if config.texts is None:
        ((said),) = talker.say([config.words[1]])
        if isinstance(said, BadText):
            raise said
        write_wav(config.out, said[1], talker.voice.sampling_rate)
        speech_s = len(said[1]) / talker.voice.sampling_rate
        return _summary(1, 0, speech_s, time.perf_counter() - loaded, loaded - begun)
    return _say_many(config, talker, ranks or Ranks())


def _say_many(config: SayConfig, talker: Talker, ranks: Ranks) -> dict[str, Any] | None:
    assert config.texts is not None
    out = Path(config.out)
    settings = [key_of_model(config.folder), talker.model.identity, talker.voice.identity]
    sources = read_sentences(config.texts, config.text_field)
    refused = [one for one in sources if isinstance(one, BadAudio)]
    orders = [
        Order(one, sha256([settings, one.supervisions[0].text]), config.speaker)
        for one in sources
        if not isinstance(one, BadAudio)
    ]
    folder = AudioFolder(out, orders, refused, ranks)
    todo, rate = folder.open_orders(), talker.voice.sampling_rate
    begun, speech_s = time.perf_counter(), 0.0
    with Progress("say", None) as progress:
        for start in range(0, len(todo), AT_ONCE):
            part = todo[start : start + AT_ONCE]
            for order, said in zip(part, talker.say([said_text(order.source) for order in part]), strict=True):
                if isinstance(said, BadText):
                    folder.add(order, BadAudio(order.source.id, "text", str(said)), rate)
                    continue
                tokens, samples = said
                failure = failure_of(said_text(order.source), tokens, samples, rate)
                folder.add(replace(order, source=with_tokens(order.source, tokens, failure)), samples, rate)
                speech_s += len(samples) / rate
                progress.add(len(samples) / rate)
    spent_s = time.perf_counter() - begun
    counts = folder.finish()
    if counts is None:
        return None
    summary = _summary(counts["utterances"], counts["rejected"], speech_s, spent_s, 0.0)
    if not speech_s and (out / "summary.json").exists():
        before = read_json(out / "summary.json")
        summary |= {name: before[name] for name in ("real_time_factor", "load_s")}
    if counts["utterances"]:
        # Of all runs and ranks; how fast it went is this one's.
        summary["speech_s"] = round(sum(cut.duration for cut in load_cuts(out)), 3)
        summary["failures"] = count_failures(out)
    write_json(out / "summary.json", summary)
    return summary


def _speaker(config: SayConfig, model: Synthesizer) -> Speaker | None:
    """A name, or the embedding of a recording where the model takes one."""
    if config.speaker is None or not model.speakers.width:
        return config.speaker
    measure = load_speaker_model(config.speaker_model, device=config.device)
    if measure.fingerprint != model.speakers.model:
        raise ConfigError("this model's speaker embeddings were measured by another --speaker-model")
    return mean_embedding(measure, reference_cuts(config.speaker))


def _summary(utterances: int, rejected: int, speech_s: float, spent_s: float, load_s: float) -> dict[str, Any]:
    return {
        "utterances": utterances,
        "rejected": rejected,
        "speech_s": round(speech_s, 3),
        "real_time_factor": round(spent_s / max(speech_s, 1e-9), 4),
        "load_s": round(load_s, 3),
    }


def main(argv: Sequence[str]) -> int:
    """`voxtok say FOLDER "text" --out FILE`."""
    config = parse(SayConfig, argv, "voxtok say", positional="words")
    summary = say(config, ranks_from_environment())
    if summary is None:
        print("this rank's share is done; the folder is complete once the other ranks' are")
        return 0
    listed = f" (see {config.out}/rejected.jsonl)" if summary["rejected"] else ""
    many = "" if summary["utterances"] == 1 else "s"
    print(
        f"{summary['utterances']} sentence{many}, {summary['speech_s']:.2f} s of speech -> {config.out}; "
        f"{summary['rejected']} rejected{listed}, "
        f"{summary['real_time_factor']:.3f} s of computation for 1 s of speech"
    )
    failed = [f"{count} {failure}" for failure, count in summary.get("failures", {}).items() if count]
    if failed:
        print(f"not as it should be: {', '.join(failed)} (see failure in {config.out}/cuts.jsonl.gz)")
    return 1 if summary["rejected"] and not summary["utterances"] else 0
