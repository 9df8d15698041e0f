"""The network: every kind of input, padding that changes nothing, kept states, and the folder."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import torch as safetensors

from tests.toy_recognizer import TOKENS, toy_recognizer
from voxtok.asr.decoder import DecoderConfig
from voxtok.asr.encoders import ENCODER_SIZES, EncoderConfig
from voxtok.asr.fronts import Embeddings, LayerConvolution, LayerSum, under_frames
from voxtok.asr.inputs import InputConfig, Inputs, Source
from voxtok.asr.padded import Padded, pad
from voxtok.asr.recognizer import Recognizer
from voxtok.asr.transducer import TransducerConfig
from voxtok.runtime.errors import ConfigError, CorruptFile

pytestmark = pytest.mark.skipif(find_spec("speechbrain") is None, reason="encoders come from voxtok[speechbrain]")

STREAMS = replace(TOKENS, tokenizers=("a", "b"), vocab_sizes=(12, 9))
LOGMEL = Source(features={"family": "logmel"}, feature_shape=(1, 8), feature_rate_hz=100.0)
LAYERS = Source(features={"family": "hubert"}, feature_shape=(5, 8), feature_rate_hz=50.0)
FUSED = replace(LOGMEL, **{name: getattr(TOKENS, name) for name in ("tokenizers", "vocab_sizes", "token_rate_hz")})
MERGED = replace(FUSED, has_durations=True)

KINDS: dict[str, tuple[Source, dict[str, Any]]] = {
    "tokens": (TOKENS, {}),
    "streams added": (STREAMS, {"streams": "sum"}),
    "streams side by side": (STREAMS, {"streams": "concatenation"}),
    "streams by attention": (STREAMS, {"streams": "attention"}),
    "context": (TOKENS, {"context": 6}),
    "logmel": (LOGMEL, {"tokens": False, "features": "logmel"}),
    "layers summed": (LAYERS, {"tokens": False, "features": "hubert", "layers": (1, 2, 3, 4, 5)}),
    "layers convolved": (
        LAYERS,
        {"tokens": False, "features": "hubert", "layers": (1, 2, 3, 4, 5), "layer_mix": "convolution"},
    ),
    "fused by addition": (FUSED, {"features": "logmel"}),
    "fused by attention": (MERGED, {"features": "logmel", "fusion": "cross-attention"}),
}


def recognizer_of(kind: str, **changes: Any) -> Recognizer:
    source, options = KINDS[kind]
    inputs = InputConfig(**{"tokens": True, "features": None, "width": 24, **options})
    return toy_recognizer(source, inputs=inputs, **changes)


def inputs_for(source: Source, context: int, lengths: list[int], seed: int = 0) -> list[Inputs]:
    """One batch of one for each length in tokens, or in frames of features where there are no tokens."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for length in lengths:
        frames = round(length * source.feature_rate_hz / source.token_rate_hz) if source.token_rate_hz else length

        def codes(count: int) -> Padded:
            rows = [torch.randint(size, (count,), generator=generator) for size in source.vocab_sizes]
            return pad([torch.stack(rows, dim=1)])

        found.append(
            Inputs(
                tokens=codes(length) if source.tokenizers else None,
                features=pad([torch.randn(frames, *source.feature_shape, generator=generator)])
                if source.features
                else None,
                context=codes(min(context, length % 5)) if context else None,
            )
        )
    return found


def together(parts: list[Inputs]) -> Inputs:
    """One batch of several, with ones where the padding is."""

    def joined(every: list[Padded | None]) -> Padded | None:
        rows = [part.values[0] for part in every if part is not None]
        if not rows:
            return None
        padded = pad(rows)
        outside = ~padded.inside.reshape(*padded.inside.shape, *[1] * (rows[0].ndim - 1))
        return Padded(padded.values.masked_fill(outside, 1), padded.lengths)

    return Inputs(
        joined([part.tokens for part in parts]),
        joined([part.features for part in parts]),
        joined([part.context for part in parts]),
    )


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_an_utterance_alone_and_in_a_padded_batch_is_the_same(kind: str) -> None:
    """Every input through the same encoder and head; what lies in the padding does not matter."""
    recognizer = recognizer_of(kind)
    source, options = KINDS[kind]
    alone = inputs_for(source, options.get("context", 0), [9, 23, 14])
    batch = recognizer.encode(together(alone))
    for row, inputs in enumerate(alone):
        single = recognizer.encode(inputs)
        length = int(single.lengths[0])
        assert int(batch.lengths[row]) == length == single.values.shape[1]
        torch.testing.assert_close(batch.values[row, :length], single.values[0], atol=1e-4, rtol=1e-4)
        assert not batch.values[row, length:].any()


@pytest.mark.parametrize("kind", ["conformer", "branchformer", "e-branchformer"])
@pytest.mark.parametrize("subsampling", [1, 4])
@torch.no_grad()
def test_no_encoder_sees_padding(kind: Any, subsampling: int) -> None:
    """SpeechBrain's own encoders differ by some percent here: their depthwise convolutions see the padding."""
    shape = EncoderConfig(kind=kind, blocks=3, width=32, heads=4, inner=64, kernel=15, subsampling=subsampling)
    recognizer = toy_recognizer(encoder=shape)
    short, long = inputs_for(TOKENS, 0, [11, 90])
    single, batch = recognizer.encode(short), recognizer.encode(together([short, long]))
    length = int(single.lengths[0])
    assert length == shape.num_frames(11) == -(-11 // subsampling)
    torch.testing.assert_close(batch.values[0, :length], single.values[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", ENCODER_SIZES)
def test_sizes_are_encoders(size: str) -> None:
    shape = EncoderConfig(kind="branchformer", subsampling=2, **ENCODER_SIZES[size])
    assert shape.blocks >= 4


def test_tokens_under_frames_of_twice_the_rate() -> None:
    """The worked example: frames 0 1 2 3 4 have tokens 0 0 1 1 2, and the last token stays."""
    tokens = Padded(torch.tensor([[[0.0], [1.0], [2.0]]]), torch.tensor([3]))
    found = under_frames(tokens, Padded(torch.zeros(1, 8, 1), torch.tensor([8])), 0.5)
    assert found[0, :, 0].tolist() == [0, 0, 1, 1, 2, 2, 2, 2]


def test_streams_added_are_the_sum_of_their_embeddings() -> None:
    config = InputConfig(tokens=True, features=None, width=8)
    embed = Embeddings((3, 4), config)
    found = embed(torch.tensor([[[2, 3]]]))[0, 0]
    first, second = embed.tables
    torch.testing.assert_close(found, first.weight[2] + second.weight[3])  # type: ignore[index]


def test_layers_begin_as_their_mean() -> None:
    features = torch.randn(2, 3, 4, 8)
    torch.testing.assert_close(LayerSum(4)(features), features.mean(dim=2))
    assert LayerConvolution(13, 8)(torch.randn(2, 3, 13, 8)).shape == (2, 3, 8)


@torch.no_grad()
def test_the_decoder_step_by_step_is_the_decoder_at_once() -> None:
    """Kept keys and values, hypotheses reordered and repeated on the way."""
    recognizer = toy_recognizer(decoder=DecoderConfig(blocks=2, heads=4, inner=64), ctc_weight=0.3)
    assert recognizer.decoder is not None
    encoded = Padded(torch.randn(2, 7, 32), torch.tensor([7, 4]))
    twice = Padded(encoded.values.repeat_interleave(2, dim=0), encoded.lengths.repeat_interleave(2))
    pieces = torch.tensor([[8, 3, 4, 5], [8, 5, 5, 3], [8, 3, 3, 4], [8, 5, 4, 4]])  # two of each utterance
    whole = recognizer.decoder(twice, pieces).log_softmax(dim=-1)
    state, order = recognizer.attention_start(encoded).repeat(2), torch.arange(4)
    for place in range(4):
        if place == 2:
            order = torch.tensor([1, 0, 2, 2])
            state = state.select(order)
        found, state = recognizer.attention_step(pieces[order, place], state)
        torch.testing.assert_close(found, whole[order, place], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_predictor_on_a_window_is_the_predictor_on_the_text() -> None:
    recognizer = toy_recognizer(transducer=TransducerConfig(history=2, width=16), ctc_weight=0.0)
    assert recognizer.predictor is not None
    whole = recognizer.predictor(torch.tensor([[0, 0, 3, 4, 5]]))[0]  # after nothing, 3, 3 4, 3 4 5
    windows = torch.tensor([[0, 0], [0, 3], [3, 4], [4, 5]])
    torch.testing.assert_close(recognizer.predict(windows), whole)
    joined = recognizer.join(torch.randn(4, 32), whole)
    torch.testing.assert_close(joined.exp().sum(dim=1), torch.ones(4))


def test_its_folder_rebuilds_it(tmp_path: Path) -> None:
    for kind in KINDS:
        recognizer = recognizer_of(kind, decoder=DecoderConfig(blocks=1, heads=2, inner=16), ctc_weight=0.5)
        recognizer.save(tmp_path)
        again = Recognizer.load(tmp_path, device="cpu")
        assert (again.config, again.source) == (recognizer.config, recognizer.source)
        assert again.text.pieces == recognizer.text.pieces
        source, options = KINDS[kind]
        (inputs,) = inputs_for(source, options.get("context", 0), [12])
        with torch.no_grad():
            assert torch.equal(
                again.ctc_log_probs(again.encode(inputs)), recognizer.ctc_log_probs(recognizer.encode(inputs))
            )


def test_a_damaged_folder_is_a_named_error(tmp_path: Path) -> None:
    with pytest.raises(CorruptFile, match=r"no asr\.json"):
        Recognizer.load(tmp_path, device="cpu")
    toy_recognizer().save(tmp_path)
    described = json.loads((tmp_path / "asr.json").read_text())
    described["config"]["encoder"]["blocks"] = 3
    (tmp_path / "asr.json").write_text(json.dumps(described))
    with pytest.raises(CorruptFile, match="damaged"):
        Recognizer.load(tmp_path, device="cpu")
    safetensors.save_file({}, tmp_path / "model.safetensors")
    described["version"] = 99
    (tmp_path / "asr.json").write_text(json.dumps(described))
    with pytest.raises(CorruptFile, match="version"):
        Recognizer.load(tmp_path, device="cpu")


def test_a_missing_head_is_a_named_error() -> None:
    recognizer = toy_recognizer()
    with pytest.raises(ConfigError, match="no attention decoder: it was trained with ctc"):
        recognizer.attention_start(Padded(torch.zeros(1, 2, 32), torch.tensor([2])))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ctc_weight": 0.3}, "1 without decoder"),
        ({"decoder": DecoderConfig(blocks=1, heads=1, inner=4)}, "below 1"),
        ({"ctc_weight": 1.5}, "between 0 and 1"),
    ],
)
def test_contradictions_of_heads_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        toy_recognizer(**wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tokens": False}, "tokens, features, or both"),
        ({"features": "logmel", "layers": (1,)}, "logmel and tokens take none"),
        ({"features": "hubert"}, "logmel and tokens take none"),
        ({"tokens": False, "features": "logmel", "context": 5}, r"set inputs\.tokens"),
        ({"context": -1}, r"inputs\.context"),
        ({"width": 30}, "divide"),
        ({"fusion_heads": 0}, "divide"),
    ],
)
def test_contradictions_of_inputs_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        InputConfig(**{"tokens": True, "features": None, "width": 24, **wrong})


@pytest.mark.parametrize("name", ["blocks", "heads", "inner", "dropout"])
def test_impossible_shapes_are_named(name: str) -> None:
    wrong: dict[str, Any] = {name: -1}
    with pytest.raises(ConfigError, match="encoder: sizes"):
        replace(toy_recognizer().config.encoder, **wrong)
    with pytest.raises(ConfigError, match="decoder: sizes"):
        replace(DecoderConfig(blocks=1, heads=2, inner=8), **wrong)
    with pytest.raises(ConfigError, match="prune-range"):
        TransducerConfig(history=2, width=8, prune_range=1)


def test_merged_tokens_have_no_frame_to_be_added_to() -> None:
    with pytest.raises(ConfigError, match="cross-attention"):
        toy_recognizer(MERGED, inputs=InputConfig(tokens=True, features="logmel", width=24))


def test_speechbrain_switches_nothing_on() -> None:
    """Imported by itself, SpeechBrain lets CUDA round every matrix product to 10 bits."""
    code = "import torch; import tests.toy_recognizer as t; t.toy_recognizer(); "
    code += "assert not torch.backends.cuda.matmul.allow_tf32"
    environment = {name: value for name, value in os.environ.items() if name != "SB_DISABLE_QUIRKS"}
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, env=environment, check=True)
