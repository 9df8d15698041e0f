"""A tiny WavLM with a layer-norm front, a vocoder of its features, and pools: all that a conversion needs."""

from dataclasses import dataclass
from pathlib import Path

from tests.tiny_models import save_tiny
from tests.tiny_vocoder import save_tiny_feature_vocoder
from tests.toy_corpus import write_toy_corpus
from voxtok.tokenize.upstream import Normalization
from voxtok.vocoder.features import FeatureConfig, Features
from voxtok.vocoder.make_pool import pool_of
from voxtok.vocoder.reference import of_speaker, reference_cuts

LAYER = 2


@dataclass(frozen=True)
class Voices:
    """Folders and what is in them; s0 and s1 are the speakers of the corpus."""

    corpus: Path
    model: Path
    vocoder: Path
    pools: tuple[Path, Path]
    features: Features

    @property
    def options(self) -> list[str]:
        """Which features, as words of a command."""
        return ["--upstream", str(self.model), "--layer", str(LAYER), "--normalization", "none", "--device", "cpu"]


def make_voices(folder: Path, upstream: str = "", normalization: Normalization = "none") -> Voices:
    """Write everything below a folder."""
    corpus = write_toy_corpus(folder / "corpus", [0.8, 1.0, 0.7, 2.5, 0.9])
    model = upstream or str(save_tiny("wavlm-large", folder / "model", do_normalize=False))
    config = FeatureConfig(upstream=model, layer=LAYER, normalization=normalization)
    features = Features.open(config, device="cpu")
    pools = []
    for speaker in ("s0", "s1"):
        cuts = of_speaker(reference_cuts(corpus), speaker, ())
        pool, _ = pool_of(cuts, features, windows=None, trim=False, speaker_model=None)
        pool.save(folder / speaker)
        pools.append(folder / speaker)
    vocoder = save_tiny_feature_vocoder(folder / "vocoder", features.width, features.fingerprint)
    return Voices(corpus, Path(model), vocoder, (pools[0], pools[1]), features)
