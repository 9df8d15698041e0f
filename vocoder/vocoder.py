"""The vocoder: turns tokens or features into a waveform, and refuses those it was not made for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from voxtok.manifests.codebook import Codebook
from voxtok.manifests.tokens import TokenSequence
from voxtok.runtime.distributed import pick_device
from voxtok.runtime.errors import ConfigError, TokenizerMismatch
from voxtok.tokenize.batches import halve_on_oom
from voxtok.tokenize.quantizer import check_codes, open_quantizer
from voxtok.tokenize.upstream import forbid_tf32
from voxtok.vocoder.conditions import Speaker, pitch_rows, speaker_rows
from voxtok.vocoder.inputs import Frames
from voxtok.vocoder.model import VocoderModel
from voxtok.vocoder.model_config import Facts, Inputs
from voxtok.vocoder.stream import VocoderStream
from voxtok.vocoder.vocoder_folder import read_folder, write_folder

Samples = npt.NDArray[np.float32]

MOST_FRAMES = 3000
"""Of a recording that is computed whole, a minute of 20 ms; longer ones are computed in chunks, in bounded memory."""


@dataclass(frozen=True, eq=False)
class Vocoder:
    """Tokens or features to waveforms.

    Example:
        vocoder = Vocoder.load("mini")
        samples = vocoder.from_tokens(tokens, speaker=None)

    Attributes:
        model: the network, on its device.
        codebook: of the tokenizer, where tokens are looked up in it; None where the network embeds them.
    """

    model: VocoderModel
    codebook: Codebook | None = None

    @property
    def facts(self) -> Facts:
        """What it was trained on."""
        return self.model.facts

    @property
    def sampling_rate(self) -> int:
        """Of the waveforms, Hz."""
        return self.facts.sampling_rate

    @property
    def hop_samples(self) -> int:
        """Samples of a frame."""
        return self.facts.hop_samples

    @property
    def inputs(self) -> Inputs:
        """What the network takes: its own embeddings of tokens, or features (and tokens where there is a codebook)."""
        return self.facts.inputs

    @property
    def width(self) -> int:
        """Dimensions of a feature frame; 0 where features are not taken."""
        return self.facts.feature_width

    @property
    def fingerprint(self) -> str:
        """Of the tokenizer for `inputs == "tokens"`, else of the features; "" where features are anyone's."""
        return (self.facts.tokenizer if self.inputs == "tokens" else self.facts.features) or ""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.model.parameters()).device

    def from_tokens(
        self,
        tokens: TokenSequence,
        *,
        speaker: Speaker | None = None,
        f0_hz: npt.ArrayLike | None = None,
        streams: Sequence[int] | None = None,
        predict_durations: bool = False,
    ) -> Samples:
        """The waveform of one token sequence, (frames * hop_samples,) float32.

        Args:
            tokens: of the tokenizer that the vocoder was trained on; merged tokens are expanded by their durations.
            speaker: a training speaker's name or an embedding; None only where the vocoder was trained without.
            f0_hz: (frames,) pitch to follow, 0 where unvoiced; None predicts it, where that is possible.
            streams: the token streams to use; None uses all.
            predict_durations: rows are merged tokens whose durations nobody knows: predict them.

        Raises:
            TokenizerMismatch: tokens of another tokenizer.
            ConfigError: no tokens are taken, or a speaker or pitch is needed and missing, or has another shape.
        """
        batch = self.from_tokens_batch(
            [tokens], speakers=[speaker], f0_hz=[f0_hz], streams=streams, predict_durations=predict_durations
        )
        return batch[0]

    def from_tokens_batch(
        self,
        batch: Sequence[TokenSequence],
        *,
        speakers: Sequence[Speaker | None],
        f0_hz: Sequence[npt.ArrayLike | None] | None = None,
        streams: Sequence[int] | None = None,
        predict_durations: bool = False,
    ) -> list[Samples]:
        """Waveforms of several token sequences, each as it is alone; arguments and errors as in `from_tokens`."""
        if not batch:
            return []
        if predict_durations:
            batch = [self.lasting(tokens) for tokens in batch]
        contents = [self.contents(tokens, streams) for tokens in batch]
        return self._generate(contents, speakers, f0_hz or [None] * len(batch), streams)

    def from_features(
        self, frames: torch.Tensor, *, speaker: Speaker | None = None, f0_hz: npt.ArrayLike | None = None
    ) -> Samples:
        """The waveform of (N, D) features, (N * hop_samples,) float32; other arguments as in `from_tokens`.

        Raises:
            ConfigError: features are not taken or have another width.
        """
        return self.from_content(self.checked_features(frames), speaker=speaker, f0_hz=f0_hz)

    def from_content(
        self, content: torch.Tensor, *, speaker: Speaker | None = None, f0_hz: npt.ArrayLike | None = None
    ) -> Samples:
        """The waveform of what the network takes: (N, S) int64 codes or (N, D) features, as `contents` gives them."""
        return self._generate([content], [speaker], [f0_hz], None)[0]

    def stream(
        self, *, speaker: Speaker | None = None, streams: Sequence[int] | None = None, chunk_frames: int = 25
    ) -> VocoderStream:
        """Waveforms of tokens or features as they come, in chunks: together that of the whole recording.

        Raises:
            ConfigError: the vocoder takes the pitch as an input, or chunk_frames is not positive.
        """
        return VocoderStream(self, speaker, streams, chunk_frames)

    def contents(self, tokens: TokenSequence, streams: Sequence[int] | None) -> torch.Tensor:
        """What the network takes of tokens: (N, S) int64 codes, or the (N, D) features they stand for, on the CPU.

        Raises:
            TokenizerMismatch: tokens of another tokenizer.
            ConfigError: tokens are not taken, or are not of this vocabulary.
        """
        self.check_tokenizer(tokens.fingerprint)
        if streams is not None and not (
            streams and all(0 <= stream < len(self.facts.vocab_sizes) for stream in streams)
        ):
            raise ConfigError(f"streams are some of 0 .. {len(self.facts.vocab_sizes) - 1}, not {list(streams)}")
        return self._looked_up(tokens.expand())

    @torch.inference_mode()
    def lasting(self, tokens: TokenSequence) -> TokenSequence:
        """Merged tokens, one row each, with predicted durations.

        Raises:
            TokenizerMismatch: tokens of another tokenizer.
            ConfigError: the vocoder does not predict durations.
        """
        self.check_tokenizer(tokens.fingerprint)
        content = self._looked_up(tokens)
        frames = Frames(content[None], torch.tensor([len(content)])).to(self.device)
        durations = self.model.predicted_durations(frames)[0].cpu().numpy().astype(np.uint8)
        return TokenSequence(tokens.codes, tokens.frame_rate_hz, tokens.fingerprint, durations)

    def check_tokenizer(self, fingerprint: str) -> None:
        """Refuse tokens of another tokenizer.

        Raises:
            TokenizerMismatch: names both, and what to do.
            ConfigError: no tokens are taken.
        """
        if self.facts.tokenizer is None:
            raise ConfigError("this vocoder takes features, not tokens: train one with a tokenizer")
        if fingerprint != self.facts.tokenizer:
            raise TokenizerMismatch(
                f"tokens of tokenizer {fingerprint[:12]} were given to a vocoder for {self.facts.tokenizer[:12]}: "
                "encode the speech again with the vocoder's tokenizer, or train a vocoder on these tokens"
            )

    def check_features(self, fingerprint: str) -> None:
        """Refuse features of another model or layer.

        Raises:
            TokenizerMismatch: names both, and what to do.
            ConfigError: no features are taken.
        """
        if self.inputs != "features":
            raise ConfigError("this vocoder takes tokens, not features: train one with --frames or --cuts")
        if self.facts.features is not None and fingerprint != self.facts.features:
            raise TokenizerMismatch(
                f"features {fingerprint[:12]} were given to a vocoder for {self.facts.features[:12]}: "
                "use the SSL model and layer that it was trained on, or train a vocoder on these features"
            )

    def batch(
        self,
        contents: Sequence[torch.Tensor],
        speakers: Sequence[Speaker | None],
        f0_hz: Sequence[npt.ArrayLike | None],
        streams: Sequence[int] | None,
    ) -> Frames:
        """A padded batch on the vocoder's device.

        Raises:
            ConfigError: a speaker or a pitch that the vocoder does not know or that has another shape.
        """
        lengths = torch.tensor([len(content) for content in contents])
        padded = torch.nn.utils.rnn.pad_sequence(list(contents), batch_first=True)
        pitch, norm = pitch_rows(f0_hz, lengths)
        kept = None
        if streams is not None:
            kept = torch.zeros(len(contents), len(self.facts.vocab_sizes), dtype=torch.bool)
            kept[:, list(streams)] = True
        who = speaker_rows(speakers, self.model.config.speaker, self.facts)
        return Frames(padded, lengths, who, pitch, norm, kept).to(self.device)

    @torch.inference_mode()
    def _generate(
        self,
        contents: Sequence[torch.Tensor],
        speakers: Sequence[Speaker | None],
        f0_hz: Sequence[npt.ArrayLike | None],
        streams: Sequence[int] | None,
    ) -> list[Samples]:
        if not all(len(content) for content in contents):
            raise ConfigError("there is nothing to synthesize: no frames")
        by_itself = not self.model.config.f0_bins and all(one is None for one in f0_hz)
        if by_itself and max(map(len, contents)) > MOST_FRAMES:
            return [self._in_chunks(*pair, streams) for pair in zip(contents, speakers, strict=True)]

        def run(part: Sequence[int]) -> list[Samples]:
            some = [contents[i] for i in part]
            frames = self.batch(some, [speakers[i] for i in part], [f0_hz[i] for i in part], streams)
            waveforms = self.model(frames).waveforms.cpu().numpy()
            return [row[: len(content) * self.hop_samples] for row, content in zip(waveforms, some, strict=True)]

        return halve_on_oom(range(len(contents)), run)

    def _in_chunks(self, content: torch.Tensor, speaker: Speaker | None, streams: Sequence[int] | None) -> Samples:
        """The waveform of one recording as its stream gives it."""
        stream = self.stream(speaker=speaker, streams=streams, chunk_frames=MOST_FRAMES)
        return np.concatenate([stream.push_content(content), stream.finish()])

    def _looked_up(self, tokens: TokenSequence) -> torch.Tensor:
        """What the network takes of each row."""
        codes = torch.from_numpy(tokens.codes.astype(np.int64))
        check_codes(codes, self.facts.vocab_sizes)
        return codes if self.codebook is None else open_quantizer(self.codebook, torch.device("cpu")).decode(codes)

    def checked_features(self, frames: torch.Tensor) -> torch.Tensor:
        """Features (N, D) as the network takes them: float32 on the CPU.

        Raises:
            ConfigError: features are not taken or have another width.
        """
        if self.inputs != "features":
            raise ConfigError("this vocoder takes tokens, not features: train one with --frames or --cuts")
        if frames.ndim != 2 or frames.shape[1] != self.width:
            raise ConfigError(f"features are (N, {self.width}) for this vocoder, not {tuple(frames.shape)}")
        return frames.detach().to("cpu", torch.float32)

    def save(self, folder: Path | str, dtype: torch.dtype = torch.float32) -> None:
        """Write the folder, with weights in `dtype`."""
        write_folder(Path(folder), self.model, self.codebook, dtype)

    @classmethod
    def load(cls, folder: Path | str, *, device: str = "auto") -> "Vocoder":
        """Open a vocoder folder, or `mini`, the small vocoder that is installed with voxtok.

        Raises:
            CorruptFile: not a vocoder folder, or damaged.
            MissingPart: it needs a package that is not installed.
        """
        place = pick_device(device)
        if place.type == "cuda":
            forbid_tf32()
        model, codebook = read_folder(mini_folder() if str(folder) == "mini" else Path(folder))
        return cls(model.eval().to(place), codebook)


def mini_folder() -> Path:
    """The folder of vocoder-mini."""
    return Path(__file__).parents[1] / "models" / "vocoder-mini"  # in a checkout as in an installed package
