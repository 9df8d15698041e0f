"""w2v-BERT 2.0 and Whisper's encoder: equal to transformers' single-utterance forward, layer by layer, in any batch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.tiny_models import HIDDEN, LAYERS, save_tiny, tiny_config, tiny_model
from voxtok.runtime.errors import ConfigError, CorruptFile
from voxtok.tokenize.load import load_upstream
from voxtok.tokenize.upstream import Upstream
from voxtok.tokenize.wav2vec2_bert import Wav2Vec2Bert
from voxtok.tokenize.whisper import Whisper
from voxtok.tokenize.windows import WindowConfig, extract_samples

KINDS = ("wav2vec2-bert", "whisper")
ALL = list(range(LAYERS + 1))
Features = dict[int, torch.Tensor]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: save_tiny(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


def speechlike(num_samples: int, seed: int = 0) -> torch.Tensor:
    """Bursts of noise with pauses."""
    white = torch.randn(num_samples, generator=torch.Generator().manual_seed(seed))
    return 0.01 + white * 0.2 * torch.sin(torch.arange(num_samples) / 2500).clamp_min(0.01)


def alone(upstream: Upstream, waveform: torch.Tensor) -> Features:
    features, counts = upstream.extract(waveform[None], torch.tensor([len(waveform)]), ALL)
    assert counts.tolist() == [upstream.num_frames(len(waveform))]
    return {layer: frames[0] for layer, frames in features.items()}


def transformers_layers(folder: Path, waveform: torch.Tensor) -> list[torch.Tensor]:
    """Input to the first block and raw output of each block, by hooks on transformers' model, cut to the audio."""
    model = transformers.AutoModel.from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    inputs = extractor(waveform.numpy(), sampling_rate=16000, return_tensors="pt")
    seen: list[torch.Tensor] = []

    def first_input(module: Any, args: Any, kwargs: Any) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    model.encoder.layers[0].register_forward_pre_hook(first_input, with_kwargs=True)
    for block in model.encoder.layers:
        block.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.inference_mode():
        (model if "bert" in model.config.model_type else model.encoder)(**inputs)
    return [frames[0] for frames in seen]


def assert_near(got: torch.Tensor, expected: torch.Tensor) -> None:
    """Within 1e-4 of the expected frames' size."""
    assert got.shape == expected.shape
    assert float((got - expected).norm() / expected.norm()) < 1e-4
    assert float((got - expected).abs().max() / expected.std()) < 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_samples", [560, 8_000, 48_159, 48_160])
def test_every_layer_equals_transformers(kind: str, num_samples: int, folders: dict[str, Path]) -> None:
    upstream = load_upstream(str(folders[kind]), device="cpu")
    assert (upstream.num_layers, upstream.width, upstream.hop_samples) == (LAYERS, HIDDEN, 320)
    waveform = speechlike(num_samples)
    features = alone(upstream, waveform)
    expected = transformers_layers(folders[kind], waveform)
    assert len(features) == len(expected) == LAYERS + 1
    for layer, frames in enumerate(expected):
        assert_near(features[layer], frames[: upstream.num_frames(num_samples)])


@pytest.mark.parametrize("kind", KINDS)
def test_no_frame_of_the_audio_is_missing(kind: str, folders: dict[str, Path]) -> None:
    """w2v-BERT keeps as many frames as its own attention mask; Whisper's frames end less than a hop before the end."""
    upstream = load_upstream(str(folders[kind]), device="cpu")
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folders[kind])
    for num_samples in range(upstream.min_samples, upstream.min_samples + 700, 13):
        count = upstream.num_frames(num_samples)
        if kind == "whisper":
            assert 320 * count <= num_samples < 320 * (count + 1)
        else:
            mask = extractor(np.zeros(num_samples, np.float32), sampling_rate=16000)["attention_mask"]
            assert count == int(np.sum(mask))
    assert upstream.num_frames(upstream.min_samples) == 1
    assert upstream.num_frames(upstream.min_samples - 1) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("together", [False, True])
def test_batch_mates_and_padding_change_nothing(kind: str, together: bool, folders: dict[str, Path]) -> None:
    """On a CPU bit for bit, since each is computed alone; together, as on a GPU, to rounding."""
    upstream = load_upstream(str(folders[kind]), device="cpu")
    assert isinstance(upstream, (Wav2Vec2Bert, Whisper))
    lengths = [16_000, 40_001, 600, 9_999]
    singles = [alone(upstream, speechlike(length, length)) for length in lengths]
    if together:
        upstream.one_by_one = False
    batch = torch.full((len(lengths), 50_000), torch.nan)
    for row, length in zip(batch, lengths, strict=True):
        row[:length] = speechlike(length, length)
    features, counts = upstream.extract(batch, torch.tensor(lengths), ALL)
    for i, (single, count) in enumerate(zip(singles, counts.tolist(), strict=True)):
        for layer in ALL:
            assert not features[layer][i, count:].any()
            if together:
                assert_near(features[layer][i, :count], single[layer])
            else:
                assert torch.equal(features[layer][i, :count], single[layer])


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_above_the_asked_layer_are_neither_kept_nor_computed(kind: str, folders: dict[str, Path]) -> None:
    whole = load_upstream(str(folders[kind]), device="cpu")
    cut = load_upstream(str(folders[kind]), device="cpu", max_layer=1)
    assert cut.identity == whole.identity and cut.num_layers == LAYERS
    waveform = speechlike(8000)[None], torch.tensor([8000])
    features, _ = cut.extract(*waveform, [1])
    assert list(features) == [1]
    assert torch.equal(features[1], whole.extract(*waveform, [0, 3, 1])[0][1])
    for layers in ([2], [-1]):
        with pytest.raises(ConfigError, match=r"0 \.\. 1 were loaded"):
            cut.extract(*waveform, layers)


@pytest.mark.parametrize("kind", KINDS)
def test_short_audio_and_other_normalisations_are_refused(kind: str, folders: dict[str, Path]) -> None:
    upstream = load_upstream(str(folders[kind]), device="cpu")
    with pytest.raises(ConfigError, match="300 samples are too short"):
        upstream.extract(torch.zeros(2, 900), torch.tensor([900, 300]), [1])
    with pytest.raises(ConfigError, match="normalization is 'checkpoint'"):
        load_upstream(str(folders[kind]), device="cpu", normalization="utterance")


def ctc(folder: Path) -> None:
    config = tiny_config("wav2vec2-bert")
    assert isinstance(config, transformers.Wav2Vec2BertConfig)
    config.vocab_size = 20
    model = transformers.Wav2Vec2BertForCTC(config)
    model.wav2vec2_bert.load_state_dict(tiny_model("wav2vec2-bert").state_dict())
    model.save_pretrained(folder)


def recogniser(folder: Path) -> None:
    config = tiny_config("whisper")
    assert isinstance(config, transformers.WhisperConfig)
    model = transformers.WhisperForConditionalGeneration(config)
    model.model.load_state_dict(tiny_model("whisper").state_dict())
    model.save_pretrained(folder)


@pytest.mark.parametrize(("kind", "save"), [("wav2vec2-bert", ctc), ("whisper", recogniser)])
def test_a_head_on_top_changes_nothing(
    kind: str, save: Callable[[Path], None], folders: dict[str, Path], tmp_path: Path
) -> None:
    save(tmp_path)
    bare, headed = (load_upstream(str(folder), device="cpu") for folder in (folders[kind], tmp_path))
    assert bare.identity == headed.identity
    waveform = speechlike(8000)
    assert torch.equal(alone(bare, waveform)[LAYERS], alone(headed, waveform)[LAYERS])


@pytest.mark.parametrize("kind", KINDS)
def test_weights_stored_in_half_precision_compute_in_the_asked_one(kind: str, tmp_path: Path) -> None:
    model = tiny_model(kind)
    model.bfloat16().save_pretrained(tmp_path / "half")
    model.float().save_pretrained(tmp_path / "rounded")
    waveform = speechlike(8000)
    rounded = alone(load_upstream(str(tmp_path / "rounded"), device="cpu"), waveform)[LAYERS]
    assert torch.equal(alone(load_upstream(str(tmp_path / "half"), device="cpu"), waveform)[LAYERS], rounded)
    half = load_upstream(str(tmp_path / "half"), device="cpu", dtype="bfloat16")
    frames = alone(half, waveform)[LAYERS]
    assert half.identity["dtype"] == "bfloat16" and frames.dtype == torch.float32
    assert 1e-5 < float((frames - rounded).norm() / rounded.norm()) < 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_or_misshapen_weight_is_named(kind: str, tmp_path: Path) -> None:
    save_tiny(kind, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = next(name for name in weights if "encoder.layers.1" in name and name.endswith("weight"))
    save_file({key: tensor for key, tensor in weights.items() if key != name}, tmp_path / "model.safetensors")
    with pytest.raises(CorruptFile, match=rf"has no tensor {name.removeprefix('encoder.')}|has no tensor {name}"):
        load_upstream(str(tmp_path), device="cpu")
    save_file(weights | {name: torch.zeros(3, 3)}, tmp_path / "model.safetensors")
    with pytest.raises(CorruptFile, match=r"is \(3, 3\), its configuration says"):
        load_upstream(str(tmp_path), device="cpu")


def test_statistics_of_w2v_bert_do_not_depend_on_the_chunks(folders: dict[str, Path]) -> None:
    upstream = load_upstream(str(folders["wav2vec2-bert"]), device="cpu")
    waveform = speechlike(50_003)
    whole = upstream.statistics([waveform])
    assert whole.shape == (161,) and whole[0] == (50_003 - 400) // 160 + 1
    for size in (100, 161, 9_999):
        torch.testing.assert_close(upstream.statistics(waveform.split(size)), whole, rtol=1e-12, atol=1e-9)


def test_windows_of_w2v_bert_are_normalised_over_the_whole_recording(folders: dict[str, Path]) -> None:
    """Layer 0 sees one frame only, so windows equal the whole; without statistics they would not: the level rises."""
    upstream = load_upstream(str(folders["wav2vec2-bert"]), device="cpu")
    samples = (speechlike(200_000) * torch.linspace(0.1, 1, 200_000)).numpy()
    whole = extract_samples(upstream, samples, ALL, None)
    windows = extract_samples(upstream, samples, ALL, WindowConfig(window_s=4.0, overlap_s=1.0))
    assert_near(windows[0], whole[0])
    assert windows[3].shape == whole[3].shape
    cut_out = extract_samples(upstream, samples[:64_000], [0], None)[0]
    assert float((cut_out - whole[0][: len(cut_out)]).norm() / cut_out.norm()) > 0.01


def test_whisper_computes_longer_audio_in_pieces_of_30_s(folders: dict[str, Path]) -> None:
    upstream = load_upstream(str(folders["whisper"]), device="cpu")
    waveform = speechlike(2 * 480_000 + 700)
    features = alone(upstream, waveform)
    pieces = [alone(upstream, piece) for piece in waveform.split(480_000)]
    assert [len(piece[2]) for piece in pieces] == [1500, 1500, 2]
    for layer in ALL:
        assert torch.equal(features[layer], torch.cat([piece[layer] for piece in pieces]))
    assert len(alone(upstream, waveform[:480_319])[0]) == 1500
