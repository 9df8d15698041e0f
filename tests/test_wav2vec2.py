"""The wav2vec2 family against transformers' own forward of one utterance, layer by layer, and against itself."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny_models import LAYERS, WAV2VEC2_KINDS, save_tiny, tiny_config, tiny_model
from voxtok.runtime.errors import ConfigError, CorruptFile
from voxtok.tokenize.load import load_upstream
from voxtok.tokenize.wav2vec2 import Wav2Vec2

ALL_LAYERS = list(range(LAYERS + 1))
LENGTHS = (16000, 9000, 40000, 405)
"""Samples: several blocks of the front, and one frame only."""

Checkpoints = Callable[[str], Path]
Outputs = list[torch.Tensor]  # of an utterance: the input to block 1, then every block's output, each (F, D)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    """Saves each kind's tiny model once; do_normalize is true."""
    folder = tmp_path_factory.mktemp("checkpoints")

    def get(kind: str) -> Path:
        return folder / kind if (folder / kind).exists() else save_tiny(kind, folder / kind)

    return get


def utterances() -> list[torch.Tensor]:
    """Noise, each with its own level and offset, so that another's statistics show."""
    generator = torch.Generator().manual_seed(1)
    return [0.1 * (row + 1) * torch.randn(count, generator=generator) + 0.05 for row, count in enumerate(LENGTHS)]


def padded(samples: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch padded with NaN, which must not reach any feature, and its lengths."""
    lengths = torch.tensor([len(utterance) for utterance in samples])
    return torch.nn.utils.rnn.pad_sequence(samples, batch_first=True, padding_value=torch.nan), lengths


def load(path: Path, **options: object) -> Wav2Vec2:
    """Load as a user does."""
    upstream = load_upstream(str(path), device="cpu", **options)  # type: ignore[arg-type]
    assert isinstance(upstream, Wav2Vec2)
    return upstream


def outputs_of(model: Any, samples: torch.Tensor) -> Outputs:
    """transformers' forward of one utterance: what goes into the first block, and what comes out of each."""
    outputs: Outputs = []

    def keep(_module: object, given: tuple[torch.Tensor, ...], result: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        if not outputs:
            outputs.append(given[0][0])
        outputs.append((result if isinstance(result, torch.Tensor) else result[0])[0])

    hooks = [layer.register_forward_hook(keep) for layer in model.encoder.layers]
    with torch.no_grad():
        hidden_states = model(samples[None], output_hidden_states=True).hidden_states
    for hook in hooks:
        hook.remove()
    for layer in range(LAYERS):  # the last entry has changed meaning between releases; the rest are the convention
        torch.testing.assert_close(outputs[layer], hidden_states[layer][0], rtol=0, atol=0)
    return outputs


def normalized(folder: Path, samples: torch.Tensor) -> torch.Tensor:
    """The waveform as transformers' feature extractor prepares it."""
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    return torch.from_numpy(extractor(samples.numpy(), sampling_rate=16000).input_values[0])


def worst(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest relative error of a frame."""
    assert found.shape == expected.shape
    return float(((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max())


def of_row(features: dict[int, torch.Tensor], counts: torch.Tensor, row: int) -> Outputs:
    """All layers of one utterance, without padding."""
    return [features[layer][row, : counts[row]] for layer in ALL_LAYERS]


@pytest.mark.parametrize("kind", WAV2VEC2_KINDS)
def test_each_layer_equals_transformers(kind: str, checkpoints: Checkpoints) -> None:
    """Values, frame counts and zero padding, with the checkpoint's normalisation, alone and in a padded batch."""
    folder = checkpoints(kind)
    model, upstream = tiny_model(kind), load(folder)
    for upstream.one_by_one in (True, False):
        features, counts = upstream.extract(*padded(utterances()), ALL_LAYERS)
        for row, samples in enumerate(utterances()):
            expected = outputs_of(model, normalized(folder, samples))
            found = of_row(features, counts, row)
            assert max(map(worst, found, expected)) < 1e-5
            assert all(not features[layer][row, counts[row] :].any() for layer in ALL_LAYERS)


@pytest.mark.parametrize("kind", WAV2VEC2_KINDS)
def test_on_a_cpu_features_are_bitwise_independent_of_batch_mates(kind: str, checkpoints: Checkpoints) -> None:
    """So tokens are byte-identical whatever the batch."""
    upstream = load(checkpoints(kind))
    features, counts = upstream.extract(*padded(utterances()), ALL_LAYERS)
    for row, samples in enumerate(utterances()):
        alone, alone_counts = upstream.extract(*padded([samples]), ALL_LAYERS)
        for found, expected in zip(of_row(alone, alone_counts, 0), of_row(features, counts, row), strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", ["hubert-base", "wavlm-large", "data2vec-audio"])
def test_bfloat16_is_close_and_batch_invariant(kind: str, checkpoints: Checkpoints) -> None:
    """bfloat16 keeps 8 bits: some percent of error, and of the same size in a padded batch."""
    exact, rounded = load(checkpoints(kind)), load(checkpoints(kind), dtype="bfloat16")
    expected, counts = exact.extract(*padded(utterances()), ALL_LAYERS)
    for rounded.one_by_one in (True, False):
        features, _ = rounded.extract(*padded(utterances()), ALL_LAYERS)
        for row in range(len(LENGTHS)):
            for layer in ALL_LAYERS:
                found, truth = features[layer][row, : counts[row]], expected[layer][row, : counts[row]]
                assert found.dtype == torch.float32
                assert 1e-4 < (found - truth).norm() / truth.norm() < 4e-2
    assert rounded.identity["dtype"] == "bfloat16"
    assert rounded.identity != exact.identity


@pytest.mark.parametrize(
    "options",
    [{"conv_pos_batch_norm": True}, {"feat_proj_layer_norm": False}, {"num_conv_pos_embeddings": 15}],
    ids=lambda options: next(iter(options)),
)
def test_variants_of_hubert(options: dict[str, int], tmp_path: Path) -> None:
    """A batch norm before the positional convolution, no norm before the projection, and an odd kernel."""
    config: Any = tiny_config("hubert-base")
    config.update(options)
    torch.manual_seed(0)
    model = transformers.HubertModel(config).eval()
    if options.get("conv_pos_batch_norm"):
        norm = model.encoder.pos_conv_embed.batch_norm
        for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            values.detach().uniform_(0.5, 1.5)
    model.save_pretrained(tmp_path)
    upstream = load(tmp_path, normalization="none")
    for upstream.one_by_one in (True, False):
        features, counts = upstream.extract(*padded(utterances()), ALL_LAYERS)
        for row, samples in enumerate(utterances()):
            assert max(map(worst, of_row(features, counts, row), outputs_of(model, samples))) < 1e-5


def test_normalization_is_over_the_utterances_own_samples(checkpoints: Checkpoints, tmp_path: Path) -> None:
    """`utterance` is `none` on a waveform normalised beforehand; `checkpoint` does what do_normalize says."""
    folder = checkpoints("hubert-large")
    raw = load(save_tiny("hubert-large", tmp_path / "raw", do_normalize=False))
    plain, own = load(folder, normalization="none"), load(folder, normalization="utterance")
    beforehand = [(x - x.mean()) / torch.sqrt(x.var(correction=0) + 1e-7) for x in utterances()]
    expected, counts = plain.extract(*padded(beforehand), ALL_LAYERS)
    found, _ = own.extract(*padded(utterances()), ALL_LAYERS)
    for row in range(len(LENGTHS)):
        assert max(map(worst, of_row(found, counts, row), of_row(expected, counts, row))) < 1e-5
    assert load(folder).identity == own.identity != plain.identity
    assert raw.identity == plain.identity
    without, _ = raw.extract(*padded(utterances()), [0])
    assert worst(without[0][0, :49], found[0][0, :49]) > 1e-2


def test_normalization_must_be_said_where_the_checkpoint_does_not(checkpoints: Checkpoints, tmp_path: Path) -> None:
    """Nothing that changes a feature is guessed."""
    folder = save_tiny("hubert-base", tmp_path)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match="normalization"):
        load(folder)
    expected = load(checkpoints("hubert-base"), normalization="none").identity
    assert load(folder, normalization="none").identity == expected


@pytest.mark.parametrize("kind", ["hubert-base", "hubert-large"])
def test_windows_take_the_whole_recordings_statistics(kind: str, checkpoints: Checkpoints) -> None:
    """Away from its edge, a window's input to block 1 is the whole recording's; with its own statistics it is not."""
    upstream = load(checkpoints(kind))
    loud = torch.linspace(0.02, 1.0, 160000)
    recording = torch.randn(160000, generator=torch.Generator().manual_seed(2)) * loud + 0.1
    whole = upstream.extract(*padded([recording]), [0])[0][0][0]
    window = recording[64000:]  # frame 200 on
    statistics = upstream.statistics(recording.split(7001))
    torch.testing.assert_close(statistics, upstream.statistics([recording]), rtol=1e-12, atol=0)
    for upstream.one_by_one in (True, False):
        found = upstream.extract(*padded([window, window[:50000]]), [0], [statistics] * 2)[0][0]
        own = upstream.extract(*padded([window]), [0])[0][0][0]
        assert worst(found[0, 64:], whole[264:]) < 1e-5
        assert worst(found[1, 64:90], whole[264:290]) < 1e-5
        assert worst(own[64:], whole[264:]) > 1e-2


def test_a_large_offset_is_harmless(checkpoints: Checkpoints) -> None:
    """Two LibriSpeech recordings have one; group norm removes it, here as in transformers."""
    samples = utterances()[0] + 0.8
    expected = outputs_of(tiny_model("hubert-base"), samples)
    upstream = load(checkpoints("hubert-base"), normalization="none")
    features, counts = upstream.extract(*padded([samples]), ALL_LAYERS)
    assert max(map(worst, of_row(features, counts, 0), expected)) < 3e-5


def test_silence_gives_finite_features(checkpoints: Checkpoints) -> None:
    """All zeros have no variance to divide by."""
    for kind in ("hubert-base", "hubert-large"):
        features, _ = load(checkpoints(kind)).extract(torch.zeros(1, 16000), torch.tensor([16000]), [LAYERS])
        assert features[LAYERS].isfinite().all()


def test_nothing_above_the_asked_layer_is_computed(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass gives several layers, the same as one by one, and later blocks never run."""
    upstream = load(checkpoints("wavlm-base"))
    batch = padded(utterances())
    together, _ = upstream.extract(*batch, [0, 2])
    ran: list[int] = []

    def noting(number: int, block: Any) -> Any:
        def run(*given: Any) -> Any:
            ran.append(number)
            return block(*given)

        return run

    blocks = [noting(number, block) for number, block in enumerate(upstream._blocks, start=1)]
    monkeypatch.setattr(upstream, "_blocks", blocks)
    for layer in (0, 2):
        ran.clear()
        assert torch.equal(upstream.extract(*batch, [layer])[0][layer], together[layer])
        assert set(ran) == set(range(1, layer + 1))


def test_max_layer_drops_the_blocks_above(checkpoints: Checkpoints) -> None:
    """The features and the identity stay the same."""
    whole, cut = load(checkpoints("hubert-base")), load(checkpoints("hubert-base"), max_layer=1)
    batch = padded(utterances())
    assert torch.equal(whole.extract(*batch, [1])[0][1], cut.extract(*batch, [1])[0][1])
    assert cut.identity == whole.identity
    assert cut.num_layers == LAYERS
    assert len(cut._blocks) == 1
    with pytest.raises(ConfigError, match="max_layer 1"):
        cut.extract(*batch, [2])
    with pytest.raises(ConfigError, match=r"layers 0 \.\. 3"):
        load(checkpoints("hubert-base"), max_layer=4)


def test_impossible_requests_are_named(checkpoints: Checkpoints) -> None:
    """Layers beyond the model, no layer, and a waveform without a frame."""
    upstream = load(checkpoints("hubert-base"))
    batch = padded(utterances())
    with pytest.raises(ConfigError, match=r"layer 4 is out of range: .* has layers 0 \.\. 3"):
        upstream.extract(*batch, [0, 4])
    with pytest.raises(ConfigError, match="layer -1"):
        upstream.extract(*batch, [-1])
    with pytest.raises(ConfigError, match="no layer"):
        upstream.extract(*batch, [])
    with pytest.raises(ConfigError, match="399 samples is too short: 400"):
        upstream.extract(torch.zeros(1, 400), torch.tensor([399]), [1])


@given(st.integers(min_value=0, max_value=10**7))
def test_frames_of_any_length(samples: int) -> None:
    """As transformers counts them, and none below 400 samples."""
    from voxtok.tokenize.architecture import from_config

    config = tiny_config("hubert-base")
    architecture = from_config(config, "tiny")
    assert (architecture.min_samples, architecture.hop_samples) == (400, 320)
    expected = samples
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        expected = (expected - kernel) // stride + 1
    assert architecture.num_frames(samples) == max(expected, 0)
    assert (architecture.num_frames(samples) > 0) == (samples >= 400)


def test_a_one_frame_utterance_leaves_the_weights_alone(checkpoints: Checkpoints) -> None:
    """The bias of a convolution with one output frame was once added to in place."""
    upstream = load(checkpoints("hubert-large"))
    batch = padded(utterances())
    before = upstream.extract(*batch, [0])[0][0]
    upstream.extract(torch.randn(1, 400), torch.tensor([400]), [0])
    assert torch.equal(upstream.extract(*batch, [0])[0][0], before)


def test_the_identity_is_of_the_weights_not_of_the_file(checkpoints: Checkpoints, tmp_path: Path) -> None:
    """PyTorch's format, old weight-norm names and a head on top change neither the identity nor a feature."""
    expected = load(checkpoints("hubert-base"))
    folder = save_tiny("hubert-base", tmp_path)
    from safetensors.torch import load_file

    old = {"lm_head.weight": torch.zeros(3, 32)}
    for name, tensor in load_file(folder / "model.safetensors").items():
        name = name.replace("parametrizations.weight.original0", "weight_g")
        old["hubert." + name.replace("parametrizations.weight.original1", "weight_v")] = tensor
    torch.save(old, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    found = load(folder)
    batch = padded(utterances())
    assert found.identity == expected.identity
    assert torch.equal(found.extract(*batch, [LAYERS])[0][LAYERS], expected.extract(*batch, [LAYERS])[0][LAYERS])
    assert json.loads(json.dumps(found.identity)) == found.identity
    other = load(save_tiny("hubert-base", tmp_path / "other", seed=1))
    assert other.identity["weights_sha256"] != expected.identity["weights_sha256"]


def test_a_bfloat16_checkpoint_computes_in_float32(tmp_path: Path) -> None:
    """transformers would keep the checkpoint's dtype."""
    save_tiny("hubert-large", tmp_path, do_normalize=False)
    model: Any = tiny_model("hubert-large")
    model = model.to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    expected = outputs_of(model.float(), utterances()[0])
    features, counts = load(tmp_path).extract(*padded(utterances()[:1]), ALL_LAYERS)
    assert max(map(worst, of_row(features, counts, 0), expected)) < 1e-5


def test_damaged_or_unknown_checkpoints_are_named(tmp_path: Path) -> None:
    """A tensor that is missing or misshapen, an unknown architecture, activation or adapter."""
    from safetensors.torch import load_file, save_file

    folder = save_tiny("hubert-base", tmp_path)
    weights = load_file(folder / "model.safetensors")
    name = "encoder.layers.1.attention.q_proj.weight"
    save_file({key: value for key, value in weights.items() if key != name}, folder / "model.safetensors")
    with pytest.raises(CorruptFile, match=name):
        load(folder)
    save_file(weights | {name: torch.zeros(2, 2)}, folder / "model.safetensors")
    with pytest.raises(CorruptFile, match=r"\(2, 2\).*\(32, 32\)"):
        load(folder)
    config = json.loads((folder / "config.json").read_text())
    for change, message in (
        ({"model_type": "bert"}, "'bert' are not known"),
        ({"hidden_act": "relu"}, "only gelu"),
        ({"model_type": "wav2vec2", "adapter_attn_dim": 16}, "adapter"),
    ):
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ConfigError, match=message):
            load(folder)


def test_options_are_checked(checkpoints: Checkpoints) -> None:
    """Python callers may pass any string."""
    with pytest.raises(ConfigError, match="float16"):
        load(checkpoints("hubert-base"), dtype="float16")
    with pytest.raises(ConfigError, match="'yes'"):
        load(checkpoints("hubert-base"), normalization="yes")


def test_real_speech_equals_transformers(voxtok_data: Path, checkpoints: Checkpoints) -> None:
    """Real levels and offsets: one second of each of some utterances, in a padded batch with others."""
    import soundfile

    files = sorted((voxtok_data / "sample").glob("audio/*"))[::9]
    samples = [
        torch.from_numpy(soundfile.read(file, dtype="float32")[0][: 16000 + 800 * i]) for i, file in enumerate(files)
    ]
    for kind in ("hubert-base", "wavlm-large"):
        model, upstream = tiny_model(kind), load(checkpoints(kind))
        for upstream.one_by_one in (True, False):
            features, counts = upstream.extract(*padded(samples), ALL_LAYERS)
            for row, utterance in enumerate(samples):
                expected = outputs_of(model, normalized(checkpoints(kind), utterance))
                assert max(map(worst, of_row(features, counts, row), expected)) < 1e-4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile imports what torch itself deprecates
@pytest.mark.parametrize("kind", ["hubert-base", "wavlm-large"])
def test_compiled_blocks_give_the_same_features(kind: str, checkpoints: Checkpoints) -> None:
    """torch.compile, at two lengths, so that the second reuses the first's code."""
    plain, compiled = load(checkpoints(kind)), load(checkpoints(kind), compiled=True)
    for batch in (padded(utterances()), padded(utterances()[:2])):
        expected, found = plain.extract(*batch, [LAYERS])[0][LAYERS], compiled.extract(*batch, [LAYERS])[0][LAYERS]
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-4, atol=1e-4)
