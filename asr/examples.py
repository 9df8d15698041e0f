"""Utterances to train on and to recognize: inputs in memory, from token stores, cuts, or both."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from lhotse.cut import Cut

from voxtok.asr.features import FeatureExtractor, Floats, features_on_disk, open_extractor
from voxtok.asr.inputs import InputConfig, Inputs, Source
from voxtok.asr.padded import Padded, pad
from voxtok.manifests.cuts import load_cuts, unique_cuts
from voxtok.manifests.store import TokenStore
from voxtok.manifests.subwords import Subwords
from voxtok.manifests.tokens import TokenSequence
from voxtok.runtime.errors import ConfigError, TokenizerMismatch
from voxtok.tokenize.tokenizer_folder import require_same

Codes = npt.NDArray[np.integer]
JOINED = "+"
"""Between stores of one corpus whose streams stand side by side."""


@dataclass(frozen=True, eq=False)
class Example:
    """One utterance.

    Attributes:
        id: of its cut.
        text: as transcribed; empty where there is none.
        speaker: empty where unknown.
        duration_s: of its audio.
        tokens: (T, streams), or None.
        durations: (T,) frames of each token, or None where each is one.
        features: (F, layers, D), or None.
        context: (C, streams) last tokens of the speaker's utterance before, or None.
    """

    id: str
    text: str
    speaker: str
    duration_s: float
    tokens: Codes | None = None
    durations: Codes | None = None
    features: Floats | None = None
    context: Codes | None = None

    @property
    def num_frames(self) -> int:
        """Frames that the encoder takes: of features where there are any, else tokens."""
        frames = self.features if self.features is not None else self.tokens
        assert frames is not None
        return len(frames)


@dataclass(frozen=True, eq=False)
class Examples:
    """Utterances of a corpus.

    Attributes:
        items: in the order of the corpus.
        source: what made their inputs.
        subwords: of the stores, where tokens are subword units.
        rejected: rows for rejected.jsonl: what could not be read.
        features: hash of what made the features of each path; empty without features.
    """

    items: list[Example]
    source: Source
    subwords: Subwords | None
    rejected: list[dict[str, str]]
    features: tuple[str, ...] = ()


def read_examples(
    paths: Sequence[str],
    config: InputConfig,
    *,
    expected: Source | None,
    cache: Path,
    device: torch.device,
    extractor: FeatureExtractor | None = None,
) -> Examples:
    """Read one or several corpora.

    Args:
        paths: token stores, each or several joined by + for streams side by side; without tokens, also cuts.
        config: what is read of them.
        expected: what must have made the inputs; None takes the first path's.
        cache: folder for computed features.
        device: to compute features on.
        extractor: of features; None opens the one that `config` names.

    Raises:
        TokenizerMismatch: tokens or features of another kind than expected.
        ConfigError: stores side by side that are not of one corpus, or nothing to read.
    """
    extractor = extractor or open_extractor(config, device)
    items: list[Example] = []
    rejected: list[dict[str, str]] = []
    keys: list[str] = []
    subwords = None
    for number, path in enumerate(paths):
        stores = [TokenStore.open(name) for name in path.split(JOINED)] if config.tokens else []
        source = _source(stores, extractor)
        require_source(expected or source, source, path)
        expected = expected or source
        if stores and stores[0].info.bpe is not None:
            subwords = Subwords.load(stores[0].folder / "tokenizer" / "bpe.model")
        found = [_example(cut, tokens) for cut, tokens in (_joined(stores, rejected) if stores else _untokenized(path))]
        if extractor is not None:
            computed = features_on_disk(extractor, _cuts(path), cache / f"features_{number}")
            rejected += computed.rejected
            keys.append(computed.key)
            features = computed.of_cuts
            found = [replace(item, features=features[item.id]) for item in found if item.id in features]
        items += with_context(found, config.context) if config.context else found
    if expected is None or not items:
        why = [f": {len(rejected)} are rejected, the first, {row['id']}: {row['detail']}" for row in rejected[:1]]
        raise ConfigError(f"there is no utterance in {', '.join(paths) or 'no path'}{''.join(why)}")
    return Examples(items, expected, subwords, rejected, tuple(keys))


def require_source(expected: Source, found: Source, where: str) -> None:
    """Refuse inputs that were made by something else than a recognizer was trained on.

    Raises:
        TokenizerMismatch: names both, and says what to do.
    """
    if len(expected.tokenizers) != len(found.tokenizers):
        raise TokenizerMismatch(
            f"{where} has tokens of {len(found.tokenizers)} stores, but {len(expected.tokenizers)} are needed: "
            f"join the stores' paths with {JOINED}"
        )
    for wanted, given in zip(expected.tokenizers, found.tokenizers, strict=True):
        require_same(wanted, given, where)
    if expected.features != found.features:
        raise TokenizerMismatch(
            f"{where}: features of {found.features} are not those of {expected.features}: give the model and layers "
            "that the recognizer was trained on"
        )


def array_hashes(*arrays: Codes | Floats | None) -> list[str]:
    """SHA-256 of the arrays that are there."""
    return [hashlib.sha256(array.tobytes()).hexdigest() for array in arrays if array is not None]


def collate(examples: Sequence[Example]) -> Inputs:
    """A batch of at least one utterance."""
    return Inputs(
        tokens=_padded([item.tokens for item in examples], np.int64),
        features=_padded([item.features for item in examples], np.float32),
        context=_padded([item.context for item in examples], np.int64),
    )


def example_of(name: str, tokens: TokenSequence | None, features: Floats | None, duration_s: float) -> Example:
    """An utterance that is in no corpus, such as one just heard."""
    durations = None if tokens is None else tokens.durations
    return Example(name, "", "", duration_s, None if tokens is None else tokens.codes, durations, features)


def with_context(examples: Sequence[Example], length: int) -> list[Example]:
    """Each with the last `length` tokens of the same speaker's utterance before, in the order of the corpus."""
    before: dict[str, Codes] = {}
    found: list[Example] = []
    for item in examples:
        assert item.tokens is not None
        nothing = item.tokens[:0]
        found.append(replace(item, context=before.get(item.speaker, nothing) if item.speaker else nothing))
        before[item.speaker] = item.tokens[-length:]
    return found


def _padded(arrays: Sequence[Codes | Floats | None], dtype: type[np.generic]) -> Padded | None:
    # Copied, since what is mapped from disk cannot be written, and torch wants what can.
    there = [torch.from_numpy(np.array(array, dtype=dtype)) for array in arrays if array is not None]
    return pad(there) if there else None


def _source(stores: Sequence[TokenStore], extractor: FeatureExtractor | None) -> Source:
    found = Source()
    if stores:
        if len({(store.frame_rate_hz, store.info.has_durations) for store in stores}) != 1 or (
            len(stores) > 1 and stores[0].info.has_durations
        ):
            raise ConfigError("streams side by side need one frame rate, and one token a frame: encode without dedup")
        found = replace(
            found,
            tokenizers=tuple(store.fingerprint for store in stores),
            vocab_sizes=tuple(size for store in stores for size in store.info.vocab_sizes),
            token_rate_hz=stores[0].frame_rate_hz,
            has_durations=stores[0].info.has_durations,
        )
    if extractor is not None:
        found = replace(
            found,
            features=extractor.identity,
            feature_shape=extractor.shape,
            feature_rate_hz=extractor.frame_rate_hz,
        )
    return found


def side_by_side(parts: Sequence[TokenSequence]) -> TokenSequence:
    """Streams of several tokenizers as those of one; frames that not all have are cut off the end."""
    if len(parts) == 1:
        return parts[0]
    frames = min(map(len, parts))
    codes = np.concatenate([part.codes[:frames].astype(np.uint32) for part in parts], axis=1)
    return TokenSequence(codes, parts[0].frame_rate_hz, parts[0].fingerprint)


def _joined(stores: Sequence[TokenStore], rejected: list[dict[str, str]]) -> Iterator[tuple[Cut, TokenSequence]]:
    """Cuts that every store has, with their streams side by side; rows of the others go to `rejected`."""
    others = [{cut.id: tokens for cut, tokens in store} for store in stores[1:]]
    alone: list[str] = []
    for cut, tokens in stores[0]:
        parts = [other.pop(cut.id) for other in others if cut.id in other]
        if len(parts) == len(others):
            yield cut, side_by_side([tokens, *parts])
        else:
            alone.append(cut.id)
    alone += [cut_id for other in others for cut_id in other]
    detail = f"of {JOINED.join(str(store.folder) for store in stores)} not all have it"
    rejected += [{"id": cut_id, "reason": "not in every store", "detail": detail} for cut_id in dict.fromkeys(alone)]


def _cuts(path: str) -> Iterable[Cut]:
    store = Path(path.split(JOINED)[0])
    return (cut for cut, _ in TokenStore.open(store)) if (store / "store.json").exists() else load_cuts(path)


def _untokenized(path: str) -> Iterator[tuple[Cut, None]]:
    return ((cut, None) for cut, repeated in unique_cuts(_cuts(path)) if repeated is None)


def _example(cut: Cut, tokens: TokenSequence | None) -> Example:
    said = [segment.text.strip() for segment in cut.supervisions if segment.text]
    speaker = next((str(segment.speaker) for segment in cut.supervisions if segment.speaker), "")
    item = Example(cut.id, " ".join(said), speaker, cut.duration)
    return item if tokens is None else replace(item, tokens=tokens.codes, durations=tokens.durations)
