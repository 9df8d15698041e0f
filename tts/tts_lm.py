"""Token TTS by a language model: text as symbols, then the tokens that say it (VALL-E's first stage, Wang et al. 2023).

    lm.json, model.safetensors, tokenizer/    the language model, see lm.py
    text.json            the text front end
    tts_lm.json          format version, speakers, how long symbols last

An utterance reads: [boundary, tokens of the voice to speak in,] [speaker,] symbols of the text, boundary, tokens.
Symbols and speakers are numbers above the boundary of column 0.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from voxtok.manifests.tokens import TokenSequence
from voxtok.runtime.errors import BadText, ConfigError, CorruptFile
from voxtok.runtime.files import read_description, sha256, write_json
from voxtok.tokenize.tokenizer_folder import require_same
from voxtok.tts.layout import IGNORED, Layout, Steps
from voxtok.tts.lm import UnitLm
from voxtok.tts.lm_score import nats_of
from voxtok.tts.sampling import Drawn, Prompt, SamplingConfig, draw_utterances
from voxtok.tts.stop_rules import StopRules
from voxtok.tts.text import TextFrontEnd

FORMAT = "voxtok-tts-lm"
VERSION = 1
BATCH = 32
"""Utterances that are drawn side by side."""

VoiceInput = Literal["none", "table", "prompt"]
Voice = str | TokenSequence
"""The name of a training speaker, or tokens of someone's speech."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What utterances are conditioned on beside their text.

    Attributes:
        voice: none; table: a number for each training speaker; prompt: tokens of another utterance of the speaker.
        names: of the table's speakers.
        prompt_s: seconds of the prompt.
        frames_per_symbol: frames of an utterance over its symbols: the training utterances' 1st and 99th percentile.
        text: hash of the text front end.
    """

    voice: VoiceInput
    names: tuple[str, ...]
    prompt_s: float
    frames_per_symbol: tuple[float, float]
    text: str

    def num_symbols(self, front: TextFrontEnd) -> int:
        """Numbers above the boundary of column 0."""
        return front.vocab_size - 1 + len(self.names)


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How sentences are drawn."""

    sampling: SamplingConfig
    """How each token is drawn."""
    candidates: int = 1
    """Utterances to draw of each sentence, of which the best is taken: one that ends, and is likely."""
    rescorer_weight: float = 0.0
    """Weight of a unit language model's nats a token in choosing; the model's own have the rest."""
    shortest: float = 0.8
    """A sentence lasts at least this share of the time that its symbols take in the fastest training speech ..."""
    longest: float = 1.3
    """... and at most this much of the time in the slowest."""

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ConfigError("candidates must be at least 1")
        if not 0 <= self.rescorer_weight <= 1:
            raise ConfigError("rescorer-weight is a share: from 0 to 1")
        if not 0 <= self.shortest <= 1 <= self.longest:
            raise ConfigError("shortest is a share of at most 1, and longest at least 1")


class LmSynthesizer:
    """Sentences to tokens, drawn by a language model.

    Example:
        synthesizer = LmSynthesizer.load("exp/tts-lm")
        drawing = Drawing(sampling=SamplingConfig(temperature=0.7, top_k=20))
        tokens = synthesizer.tokens(["Hello, world!"], drawing, seed=0)[0]

    Attributes:
        lm: the language model.
        front: the text front end.
        conditions: what utterances are conditioned on.
    """

    def __init__(self, lm: UnitLm, front: TextFrontEnd, conditions: Conditions) -> None:
        self.lm, self.front, self.conditions = lm, front, conditions

    @property
    def fingerprint(self) -> str:
        """Of the tokenizer whose tokens it makes."""
        return self.lm.fingerprint

    def tokens(
        self,
        texts: Sequence[str],
        drawing: Drawing,
        *,
        seed: int,
        speaker: Voice | None = None,
        rescorer: UnitLm | None = None,
    ) -> list[TokenSequence | BadText]:
        """Tokens of each sentence, or what is wrong with it; arguments and errors as in `draw`."""
        drawn = self.draw(texts, drawing, seed=seed, speaker=speaker, rescorer=rescorer)
        silent = BadText("the model drew no token for this sentence")
        return [one if isinstance(one, BadText) else one.tokens if len(one.tokens) else silent for one in drawn]

    def draw(
        self,
        texts: Sequence[str],
        drawing: Drawing,
        *,
        seed: int,
        speaker: Voice | None = None,
        rescorer: UnitLm | None = None,
    ) -> list[Drawn | BadText]:
        """The best utterance of each sentence, with why it ended: anything but "end" is a failure.

        Args:
            texts: sentences.
            drawing: how they are drawn.
            seed: what is drawn for a sentence follows from it and from the sentence.
            speaker: a training speaker's name, or tokens of the voice to speak in, as the model was trained.
            rescorer: a unit language model of the same tokenizer.

        Raises:
            ConfigError: a speaker that is not known, or none where one is needed.
            TokenizerMismatch: the voice or the rescorer are of another tokenizer.
        """
        if (rescorer is None) != (drawing.rescorer_weight == 0):
            raise ConfigError("a rescorer and its rescorer-weight are given together")
        if rescorer is not None:
            require_same(self.fingerprint, rescorer.fingerprint, "the rescorer")
            if self.lm.layout.rows == "merged" != rescorer.layout.rows:
                raise ConfigError("units without durations can be rescored by a model of rows merged alone")
        voice = voice_steps(self.lm.layout, self.front, self.conditions, speaker)
        numbered = [self._fitting(ids, voice) for ids in self.front.encode_batch(texts)]
        tries = [
            (number, ids, candidate)
            for number, ids in enumerate(numbered)
            if not isinstance(ids, BadText)
            for candidate in range(drawing.candidates)
        ]
        tries.sort(key=lambda one: len(one[1]))
        found: dict[int, list[Drawn]] = {}
        for first in range(0, len(tries), BATCH):
            part = tries[first : first + BATCH]
            empty = np.empty((0, self.lm.layout.columns), dtype=np.int64)
            prompts = [Prompt(given(self.lm.layout, ids, voice), empty) for _, ids, _ in part]
            rules = [self._rules(len(ids), drawing) for _, ids, _ in part]
            seeds = [_seed_of(seed, ids, candidate) for _, ids, candidate in part]
            every = draw_utterances(self.lm, prompts, drawing.sampling, rules, seeds)
            for (number, *_), drawn in zip(part, every, strict=True):
                found.setdefault(number, []).append(drawn)
        return [
            ids if isinstance(ids, BadText) else best(found[number], drawing.rescorer_weight, rescorer)
            for number, ids in enumerate(numbered)
        ]

    def _fitting(self, ids: list[int] | BadText, voice: Steps) -> list[int] | BadText:
        """A sentence that leaves room in the model's context to say it."""
        context = self.lm.shape.context_steps
        if isinstance(ids, BadText) or len(given(self.lm.layout, ids, voice)) < context:
            return ids
        return BadText(f"{len(ids)} symbols leave no room in the model's context of {context} steps: say it in parts")

    def _rules(self, num_symbols: int, drawing: Drawing) -> StopRules:
        fastest, slowest = self.conditions.frames_per_symbol
        symbols_s = num_symbols / self.lm.layout.frame_rate_hz
        return StopRules(
            min_s=drawing.shortest * fastest * symbols_s, max_s=drawing.longest * slowest * symbols_s + 0.5
        )

    def save_conditions(self, folder: Path | str) -> None:
        """Write what stands beside the language model."""
        self.front.save(Path(folder) / "text.json")
        described = {"format": FORMAT, "version": VERSION, **asdict(self.conditions)}
        write_json(Path(folder) / "tts_lm.json", described)

    @classmethod
    def load(cls, folder: Path | str, *, device: str = "auto") -> "LmSynthesizer":
        """Open a folder, ready to speak.

        Raises:
            CorruptFile: not the folder of a text-to-speech language model, or damaged.
        """
        folder = Path(folder)
        if not (folder / "tts_lm.json").exists():
            raise CorruptFile(f"{folder}: not the folder of a text-to-speech language model (no tts_lm.json)")
        keys = ("voice", "names", "prompt_s", "frames_per_symbol", "text")
        described = read_description(folder / "tts_lm.json", FORMAT, VERSION, keys)
        fastest, slowest = described["frames_per_symbol"]
        conditions = Conditions(
            voice=described["voice"],
            names=tuple(described["names"]),
            prompt_s=described["prompt_s"],
            frames_per_symbol=(fastest, slowest),
            text=described["text"],
        )
        front, lm = TextFrontEnd.load(folder / "text.json"), UnitLm.load(folder, device=device)
        if front.sha256 != conditions.text or conditions.num_symbols(front) != lm.symbols:
            raise CorruptFile(f"{folder}: text.json is not the text front end that the model was trained with")
        return cls(lm, front, conditions)


def given(layout: Layout, ids: Sequence[int], voice: Steps) -> Steps:
    """(n, columns) what an utterance is conditioned on, and the boundary after it."""
    symbols = symbol_steps(layout, np.array(ids, dtype=np.int64) - 1)
    return np.concatenate([voice, symbols, [layout.boundaries]])


def symbol_steps(layout: Layout, numbers: npt.NDArray[np.int64]) -> Steps:
    """(n, columns) steps of symbols counted from 0; the other columns have their boundaries."""
    steps = np.tile(np.array(layout.boundaries, dtype=np.int64), (len(numbers), 1))
    steps[:, 0] += 1 + numbers
    return steps


def voice_steps(layout: Layout, front: TextFrontEnd, conditions: Conditions, speaker: Voice | None) -> Steps:
    """(n, columns) steps that say who speaks.

    Raises:
        ConfigError: a speaker that is not known, or none where one is needed, or one where none is.
        TokenizerMismatch: tokens of another tokenizer.
    """
    nobody = np.empty((0, layout.columns), dtype=np.int64)
    match conditions.voice:
        case "none":
            if speaker is not None:
                raise ConfigError("this model was trained without speakers: leave out the speaker")
            return nobody
        case "table":
            if not isinstance(speaker, str) or speaker not in conditions.names:
                known = ", ".join(conditions.names[:10])
                raise ConfigError(f"speaker {speaker!r} is not one of this model's: {known}, ...")
            number = front.vocab_size - 1 + conditions.names.index(speaker)
            return symbol_steps(layout, np.array([number], dtype=np.int64))
        case "prompt":
            if not isinstance(speaker, TokenSequence):
                raise ConfigError("this model speaks in the voice of a recording: give one")
            require_same(layout.fingerprint, speaker.fingerprint, "the voice")
            steps = layout.steps(beginning(speaker, conditions.prompt_s))
            return np.concatenate([nobody, [layout.boundaries], steps])


def beginning(tokens: TokenSequence, duration_s: float) -> TokenSequence:
    """The first rows of an utterance, up to a duration; at least one."""
    rows = max(int((tokens.spans()[:, 1] <= duration_s * tokens.frame_rate_hz + 1e-6).sum()), 1)
    durations = None if tokens.durations is None else tokens.durations[:rows]
    return TokenSequence(tokens.codes[:rows], tokens.frame_rate_hz, tokens.fingerprint, durations)


def best(candidates: Sequence[Drawn], rescorer_weight: float, rescorer: UnitLm | None) -> Drawn:
    """The candidate with the fewest nats a token among those that ended by themselves, or else among all."""
    ended = [drawn for drawn in candidates if drawn.ended == "end"] or list(candidates)
    costs = [(1 - rescorer_weight) * drawn.nats / max(drawn.decisions, 1) for drawn in ended]
    if rescorer is not None and len(ended) > 1:
        documents = [rescorer.layout.document(drawn.tokens) for drawn in ended]
        decisions = [int((targets != IGNORED).sum()) for _, targets in documents]
        for i, (nats, count) in enumerate(zip(nats_of(rescorer, documents), decisions, strict=True)):
            costs[i] += rescorer_weight * nats / count
    return ended[int(np.argmin(costs))]


def _seed_of(seed: int, ids: Sequence[int], candidate: int) -> int:
    """Of an utterance: it follows from what is said, not from its place."""
    return int(sha256([seed, list(ids), candidate])[:15], 16)
