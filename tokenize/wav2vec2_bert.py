"""w2v-BERT 2.0: log-mel frames, stacked in pairs, through conformer blocks (Seamless Communication, 2023).

The front end is that of transformers' SeamlessM4TFeatureExtractor: Kaldi's log-mel on the 16-bit scale, each of the 80
filters normalised to zero mean and unit variance over the recording. Blocks use transformers' modules, except that
relative-key attention multiplies by 73 distance embeddings and then picks, where transformers builds a (T, T, head)
tensor: 0.6 GB for 30 s. The convolution in a block is causal and its input is masked, so padding never reaches a frame.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.checkpoint import Checkpoint
from voxtok.tokenize.filterbank import Filterbank
from voxtok.tokenize.modules import filled, part_of
from voxtok.tokenize.upstream import Dtype, Normalization, Upstream
from voxtok.tokenize.weights import hash_weights

STACKED = 2
"""Log-mel frames of 10 ms in one frame of the model."""
PCM_SCALE = 32768.0
VARIANCE_FLOOR = 1e-7
CONFIG_FIELDS = (
    "hidden_act",
    "layer_norm_eps",
    "left_max_position_embeddings",
    "num_attention_heads",
    "right_max_position_embeddings",
)
"""What changes features beside the weights."""


class Wav2Vec2Bert:
    """w2v-BERT 2.0 behind the Upstream interface."""

    sampling_rate = 16000

    def __init__(
        self, model: Any, identity: dict[str, Any], num_layers: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.device = device
        self.identity = identity
        self.num_layers = num_layers
        self.width = int(model.config.hidden_size)
        self.one_by_one = device.type == "cpu"
        """Whether utterances of a batch are computed alone: there is nothing to gain from a batch on a CPU."""
        self._model = model
        self._dtype = dtype
        self._mels = Filterbank("logmel", device)
        self.hop_samples = STACKED * self._mels.hop_samples
        self.min_samples = self._mels.min_samples + (STACKED - 1) * self._mels.hop_samples

    def num_frames(self, num_samples: int) -> int:
        """Whole pairs of log-mel frames; 16000 samples have 98 // 2 = 49."""
        return self._mels.num_frames(num_samples) // STACKED

    @torch.inference_mode()
    def statistics(self, chunks: Iterable[torch.Tensor]) -> torch.Tensor:
        """Number of log-mel frames, and sum and sum of squares of each filter: (161,)."""
        sums = torch.zeros(1 + 2 * self._mels.width, dtype=torch.float64)
        pending = torch.zeros(0, device=self.device)
        for chunk in chunks:
            pending = torch.cat([pending, chunk.to(self.device)])
            if len(pending) >= self._mels.min_samples:
                mels = self._log_mels(pending)
                sums += _sums(mels)
                pending = pending[len(mels) * self._mels.hop_samples :]
        return sums

    @torch.inference_mode()
    def extract(
        self,
        waveforms: torch.Tensor,
        lengths: torch.Tensor,
        layers: Sequence[int],
        statistics: Sequence[torch.Tensor] | None = None,
    ) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
        """Block outputs of each utterance; see Upstream.extract."""
        kept = len(self._model.encoder.layers)
        if not all(0 <= layer <= kept for layer in layers):
            raise ConfigError(f"layers {sorted(layers)} were asked for, but 0 .. {kept} were loaded")
        samples = lengths.tolist()
        if min(samples) < self.min_samples:
            raise ConfigError(f"{min(samples)} samples are too short: one frame needs {self.min_samples}")
        counts = torch.tensor([self.num_frames(length) for length in samples], device=self.device)
        frames = torch.zeros(len(samples), int(counts.max()), STACKED * self._mels.width, device=self.device)
        for i, (waveform, length) in enumerate(zip(waveforms, samples, strict=True)):
            stacked = self._normalised(waveform[:length], None if statistics is None else statistics[i])
            frames[i, : len(stacked)] = stacked
        if not self.one_by_one:
            return self._blocks(frames, counts, layers), counts
        alone = [self._blocks(row[None, :count], None, layers) for row, count in zip(frames, counts, strict=True)]
        padded = {
            layer: torch.nn.utils.rnn.pad_sequence([each[layer][0] for each in alone], batch_first=True)
            for layer in layers
        }
        return padded, counts

    def _log_mels(self, waveform: torch.Tensor) -> torch.Tensor:
        scaled = waveform.to(self.device, torch.float32)[None] * PCM_SCALE
        features, _ = self._mels.extract(scaled, torch.tensor([scaled.shape[1]]), [0])
        return features[0][0]

    def _normalised(self, waveform: torch.Tensor, statistics: torch.Tensor | None) -> torch.Tensor:
        """(F, 160) frames of one utterance."""
        mels = self._log_mels(waveform)
        sums = _sums(mels) if statistics is None else statistics
        total, squares = sums[1:].view(2, -1)
        count = sums[0]
        mean = total / count
        variance = (squares - count * mean**2).clamp_min(0) / (count - 1)
        scale = (variance + VARIANCE_FLOOR).rsqrt()
        normed: torch.Tensor = (mels - mean.to(mels)) * scale.to(mels)
        return normed[: len(mels) // STACKED * STACKED].view(-1, STACKED * self._mels.width)

    def _blocks(
        self, frames: torch.Tensor, counts: torch.Tensor | None, layers: Sequence[int]
    ) -> dict[int, torch.Tensor]:
        """{layer: (B, F, width)} of stacked frames (B, F, 160); counts is None where nothing is padded."""
        valid = None if counts is None else torch.arange(frames.shape[1], device=self.device) < counts[:, None]
        hidden, _ = self._model.feature_projection(frames.to(self._dtype))
        kept: dict[int, torch.Tensor] = {}
        for layer in range(max(layers) + 1):
            if layer:
                hidden = conformer_block(self._model.encoder.layers[layer - 1], hidden, valid)
            if layer in layers:
                kept[layer] = hidden.float() if valid is None else hidden.float() * valid[..., None]
        return kept


def conformer_block(block: Any, hidden: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """One block: half a feed-forward, attention, convolution, half a feed-forward, norm.

    Args:
        block: Wav2Vec2BertEncoderLayer.
        hidden: (B, F, width).
        valid: (B, F) true where a frame is not padding; None where all are.
    """
    hidden = hidden + 0.5 * block.ffn1(block.ffn1_layer_norm(hidden))
    hidden = hidden + attention(block.self_attn, block.self_attn_layer_norm(hidden), valid)
    hidden = hidden + block.conv_module(hidden, attention_mask=valid)
    hidden = hidden + 0.5 * block.ffn2(block.ffn2_layer_norm(hidden))
    normed: torch.Tensor = block.final_layer_norm(hidden)
    return normed


def attention(module: Any, hidden: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """Self-attention with a bias q . e[distance], the distance clamped to the embeddings there are (Shaw et al., 2018).

    Args:
        module: Wav2Vec2BertSelfAttention of type "relative_key".
        hidden: (B, F, width).
        valid: (B, F), or None.
    """
    batch, num_frames, _ = hidden.shape
    projections = (module.linear_q, module.linear_k, module.linear_v)
    query, key, value = (
        linear(hidden).view(batch, num_frames, module.num_heads, module.head_size).transpose(1, 2)
        for linear in projections
    )
    left, right = module.left_max_position_embeddings, module.right_max_position_embeddings
    places = torch.arange(num_frames, device=hidden.device)
    distances = (places - places[:, None]).clamp(-left, right) + left  # (F, F)
    by_distance = query @ module.distance_embedding.weight.T * module.scaling  # (B, heads, F, left + right + 1)
    bias = by_distance.gather(-1, distances.expand(*by_distance.shape[:2], -1, -1))
    if valid is not None:
        bias = bias.masked_fill(~valid[:, None, None], torch.finfo(bias.dtype).min)
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=module.scaling)
    out: torch.Tensor = module.linear_out(mixed.transpose(1, 2).reshape(batch, num_frames, -1))
    return out


def load(
    checkpoint: Checkpoint,
    *,
    device: torch.device,
    dtype: Dtype,
    normalization: Normalization,
    max_layer: int | None,
) -> Upstream:
    """Open a w2v-BERT 2.0 checkpoint, whole or with a head on top.

    Raises:
        ConfigError: another normalisation than the checkpoint's was asked for, or it has other position embeddings.
        CorruptFile: a weight is missing.
    """
    from transformers import Wav2Vec2BertModel

    if normalization != "checkpoint":
        raise ConfigError(f"{checkpoint.name}: w2v-BERT normalises its log-mel frames: normalization is 'checkpoint'")
    config = checkpoint.config()
    if config.position_embeddings_type != "relative_key":
        found = config.position_embeddings_type
        raise ConfigError(f"{checkpoint.name}: position_embeddings_type is {found!r}; only 'relative_key' is known")
    num_layers = config.num_hidden_layers
    weights = part_of(checkpoint.weights(), ("wav2vec2_bert.",), ("feature_projection.", "encoder."))
    identity = {
        "family": "wav2vec2-bert",
        "version": 1,
        "weights_sha256": hash_weights(weights),
        "config": {name: getattr(config, name) for name in CONFIG_FIELDS},
        "normalization": normalization,
        "dtype": dtype,
    }
    config.num_hidden_layers = num_layers if max_layer is None else min(max_layer, num_layers)
    config.add_adapter = config.use_intermediate_ffn_before_adapter = False
    config.mask_time_prob = config.mask_feature_prob = 0.0
    torch_dtype = getattr(torch, dtype)
    model = filled(lambda: Wav2Vec2BertModel(config), checkpoint, weights, device, torch_dtype)
    return Wav2Vec2Bert(model, identity, num_layers, device, torch_dtype)


def _sums(mels: torch.Tensor) -> torch.Tensor:
    exact = mels.double()
    return torch.cat([torch.tensor([len(mels)]), exact.sum(0).cpu(), exact.square().sum(0).cpu()])
