"""Searches by name with random recognizers, and where pieces lie in the frames."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.reference_asr import best_alignment
from tests.test_ctc_search import random_log_probs
from tests.toy_speech_text import RATE_HZ, VOCAB, toy_text_model
from voxtok.asr.alignment import align, align_ctc, confidence_of, frame_edges_s, words_of
from voxtok.asr.decode_asr import decode_part
from voxtok.asr.decoder import DecoderConfig
from voxtok.asr.encoders import EncoderConfig
from voxtok.asr.examples import Example
from voxtok.asr.inputs import InputConfig, Inputs, Source
from voxtok.asr.padded import Padded
from voxtok.asr.recognizer import Recognizer, RecognizerConfig
from voxtok.asr.search import Method, SearchConfig, Searcher, default_search
from voxtok.asr.transducer import TransducerConfig
from voxtok.runtime.errors import ConfigError

pytestmark = pytest.mark.skipif(find_spec("speechbrain") is None, reason="encoders come from voxtok[speechbrain]")

HEADS: dict[str, dict[str, Any]] = {
    "ctc": {"ctc_weight": 1.0},
    "attention": {"ctc_weight": 0.3, "decoder": DecoderConfig(blocks=1, heads=2, inner=32)},
    "attention alone": {"ctc_weight": 0.0, "decoder": DecoderConfig(blocks=1, heads=2, inner=32)},
    "transducer": {"ctc_weight": 0.3, "transducer": TransducerConfig(history=2, width=24)},
    "transducer alone": {"ctc_weight": 0.0, "transducer": TransducerConfig(history=2, width=24)},
}


def random_recognizer(heads: str, folder: Path) -> Recognizer:
    """A recognizer of tokens with random weights, sharper than those that training begins with."""
    text = toy_text_model(folder / "text.json")
    encoder = EncoderConfig(
        kind="conformer", blocks=1, width=24, heads=2, inner=32, kernel=3, subsampling=2, dropout=0.0
    )
    config = RecognizerConfig(inputs=InputConfig(tokens=True, features=None, width=24), encoder=encoder, **HEADS[heads])
    source = Source(tokenizers=("toy",), vocab_sizes=(VOCAB,), token_rate_hz=RATE_HZ, has_durations=True)
    torch.manual_seed(1)
    recognizer = Recognizer(config, source, text).eval()
    with torch.no_grad():
        for name, weight in recognizer.named_parameters():
            if name.startswith(("ctc", "decoder.output", "joiner")):
                weight.mul_(4.0)
    return recognizer


def example(length: int, seed: int) -> Example:
    rng = np.random.default_rng([seed, length])
    durations = rng.integers(1, 4, size=length).astype(np.uint8)
    codes = rng.integers(0, VOCAB, size=(length, 1)).astype(np.uint8)
    return Example(f"utt{seed}", "", "", float(durations.sum()) / RATE_HZ, codes, durations)


@pytest.mark.parametrize(
    ("heads", "method"),
    [
        ("ctc", "ctc-greedy"),
        ("ctc", "ctc-beam"),
        ("attention", "attention"),
        ("transducer", "transducer-greedy"),
        ("transducer alone", "transducer-beam"),
    ],
)
def test_batched_is_single(heads: str, method: Method, tmp_path: Path) -> None:
    """Through the whole network, whatever stands beside an utterance; times lie inside of the audio."""
    searcher = Searcher.open(random_recognizer(heads, tmp_path), SearchConfig(method=method, beam=4))
    items = [example(length, seed) for seed, length in enumerate((30, 0, 9, 17, 1))]
    together = decode_part(searcher, items, batch_frames=1000)
    alone = [row for item in items for row in decode_part(searcher, [item], batch_frames=1000)]
    assert [row.get("text") for row in together] == [row.get("text") for row in alone]
    assert together[1] == {"id": "utt1", "reason": "empty", "detail": "it has no input frames"}
    assert any(row.get("text") for row in together)
    for item, row, single in zip(items, together, alone, strict=True):
        assert row.get("score") == pytest.approx(single.get("score"), abs=2e-3)
        for word in row.get("words", []):
            assert 0 <= word["start_s"] <= word["end_s"] <= item.duration_s + 1e-3
            assert 0 <= word["confidence"] <= 1


def test_what_memory_does_not_hold_is_listed_and_the_others_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One batch, in which one utterance alone is too long."""
    searcher = Searcher.open(random_recognizer("ctc", tmp_path), SearchConfig(method="ctc-greedy"))
    items = [example(length, seed) for seed, length in enumerate((9, 30, 12, 11))]
    expected, encode = decode_part(searcher, items, batch_frames=1000), Recognizer.encode

    def full(recognizer: Recognizer, inputs: Inputs) -> Padded:
        if inputs.tokens is not None and int(inputs.tokens.lengths.max()) >= 30:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return encode(recognizer, inputs)

    monkeypatch.setattr(Recognizer, "encode", full)
    found = decode_part(searcher, items, batch_frames=1000)
    assert (found[1]["id"], found[1]["reason"]) == ("utt1", "out of memory")
    assert "window_s" not in found[1]["detail"] and "text" not in found[1]
    assert [found[i]["text"] for i in (0, 2, 3)] == [expected[i]["text"] for i in (0, 2, 3)]


def test_attention_without_ctc_has_no_times(tmp_path: Path) -> None:
    searcher = Searcher.open(
        random_recognizer("attention alone", tmp_path), SearchConfig(method="attention", beam=3, ctc_weight=0.0)
    )
    (row,) = decode_part(searcher, [example(20, 0)], batch_frames=100)
    assert row["text"] and row["confidence"] is None and row["words"][0]["start_s"] is None


def test_nbest_are_written_best_first(tmp_path: Path) -> None:
    searcher = Searcher.open(random_recognizer("ctc", tmp_path), SearchConfig(method="ctc-beam", nbest=4))
    (row,) = decode_part(searcher, [example(20, 0)], batch_frames=100)
    scores = [one["score"] for one in row["nbest"]]
    assert len(scores) == 4 and scores == sorted(scores, reverse=True) and row["nbest"][0]["text"] == row["text"]


@pytest.mark.parametrize("heads", HEADS)
def test_by_default_all_heads_are_searched(heads: str, tmp_path: Path) -> None:
    recognizer = random_recognizer(heads, tmp_path)
    config = default_search(recognizer)
    assert (
        config.method
        == {"ctc": "ctc-beam", "attention": "attention", "transducer": "transducer-beam"}[heads.split()[0]]
    )
    (row,) = decode_part(Searcher.open(recognizer, config), [example(12, 0)], batch_frames=100)
    assert "text" in row


@pytest.mark.parametrize(
    ("heads", "config", "says"),
    [
        ("ctc", {"method": "attention"}, "needs attention; this recognizer has ctc"),
        ("attention alone", {"method": "attention"}, "needs ctc"),
        ("transducer alone", {"method": "ctc-beam"}, "needs ctc"),
    ],
)
def test_a_search_needs_its_head(heads: str, config: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        Searcher.open(random_recognizer(heads, tmp_path), SearchConfig(**config))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"method": "graph"}, "needs a search.graph"),
        ({"method": "ctc-beam", "graph": "x", "lm_weight": 1.0}, "takes no search.graph"),
        ({"method": "ctc-greedy", "lm": "x", "lm_weight": 1.0}, "search.lm joins"),
        ({"method": "ctc-beam", "lm": "x"}, "lm-weight"),
        ({"method": "ctc-beam", "lm_weight": 1.0}, "lm-weight"),
        ({"method": "ctc-beam", "beam": 0}, "at least 1"),
        ({"method": "ctc-greedy", "nbest": 2}, "nbest"),
        ({"method": "attention", "ctc_weight": 2.0}, "between 0 and 1"),
    ],
)
def test_options_that_contradict_each_other(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        SearchConfig(**config)


@pytest.mark.parametrize("seed", range(4))
def test_the_alignment_is_the_best_of_all(seed: int) -> None:
    log_probs = random_log_probs(6, 4, seed=seed)
    for numbers in ((1,), (2, 2), (1, 3, 1), (3, 3, 3)):
        pieces = align_ctc(log_probs, numbers)
        assert pieces is not None and len(pieces) == len(numbers)
        path = [0] * 6
        for number, piece in zip(numbers, pieces, strict=True):
            path[piece.first : piece.last] = [number] * (piece.last - piece.first)
            shown = log_probs[piece.first : piece.last, number].exp()
            assert piece.probability == pytest.approx(float(shown.mean()), abs=1e-5)
        score = sum(float(log_probs[frame, label]) for frame, label in enumerate(path))
        assert score == pytest.approx(best_alignment(log_probs.tolist(), numbers), abs=1e-4)
    assert align_ctc(log_probs, (2, 2, 2, 2)) is None  # would need seven frames


def test_edges_of_frames_worked_by_hand() -> None:
    source = Source(tokenizers=("toy",), vocab_sizes=(9,), token_rate_hz=50.0, has_durations=True)
    merged = Example("u", "", "", 0.12, np.zeros((3, 1), dtype=np.uint8), np.array([3, 2, 1], dtype=np.uint8))
    assert frame_edges_s(merged, source, 2, 2) == pytest.approx([0.0, 0.1, 0.12])
    frames = replace(merged, durations=None)
    assert frame_edges_s(frames, source, 1, 3) == pytest.approx([0.0, 0.02, 0.04, 0.06])


def test_words_have_the_times_and_confidence_of_their_pieces(tmp_path: Path) -> None:
    """Worked: c .5, a .5, t 1 have the geometric mean .63; the space counts for no word."""
    recognizer = random_recognizer("ctc", tmp_path)
    numbers = recognizer.text.encode("cat a")
    log_probs = torch.full((6, recognizer.text.vocab_size), -20.0)
    log_probs[range(5), numbers] = torch.tensor([0.5, 0.5, 1.0, 0.3, 0.25]).log()
    log_probs[5, 0] = 0.0
    words = words_of(recognizer.text, numbers, align_ctc(log_probs, numbers), [0.1 * edge for edge in range(7)])
    assert [word.text for word in words] == ["cat", "a"]
    assert [word.start_s for word in words] == pytest.approx([0.0, 0.4])
    assert [word.end_s for word in words] == pytest.approx([0.3, 0.5])
    assert [word.confidence for word in words] == pytest.approx([0.25 ** (1 / 3), 0.25], abs=1e-4)
    assert confidence_of(words) == pytest.approx((0.25 ** (1 / 3) * 0.25) ** 0.5, abs=1e-4)
    assert confidence_of([]) is None


def test_a_transducer_says_where_it_wrote(tmp_path: Path) -> None:
    recognizer = random_recognizer("transducer alone", tmp_path)
    encoded = Padded(torch.randn(1, 12, 24, generator=torch.Generator().manual_seed(0)) * 3, torch.tensor([12]))
    config = SearchConfig(method="transducer-beam", beam=3)
    with torch.inference_mode():
        ((best,),) = Searcher.open(recognizer, config).search(encoded)
        pieces = align(recognizer, encoded.values[0], best)
        assert pieces is not None and best.frames is not None and len(best.numbers) > 0
        for place, piece in enumerate(pieces):
            before = torch.tensor([([0, 0, *best.numbers[:place]])[-2:]])
            log_probs = recognizer.join(encoded.values[0, best.frames[place]][None], recognizer.predict(before))
            assert piece.first == best.frames[place]
            assert piece.probability == pytest.approx(float(log_probs[0, best.numbers[place]].exp()), abs=1e-5)
