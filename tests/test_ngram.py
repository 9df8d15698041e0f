"""N-gram models: ARPA files against the format's recursion, and Kneser-Ney by its properties."""

import math
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.reference_asr import arpa_score
from tests.test_ctc_search import ARPA, TEXT, lm_score
from voxtok.asr import fit_text
from voxtok.asr.ngram import NgramModel, read_arpa, read_ngrams
from voxtok.asr.ngram_fit import kneser_ney, main, units_of
from voxtok.asr.normalization import TextNormalization
from voxtok.asr.text import TextConfig, TextModel, train_text_model
from voxtok.runtime.errors import ConfigError, CorruptFile

PLAIN = TextNormalization(case="lower", punctuation="remove")


def total(model: NgramModel, numbers: Sequence[int]) -> float:
    """Of a whole sentence, one number at a time."""
    state, score = torch.tensor([model.start]), 0.0
    for number in numbers:
        gained, state = model.score(state, torch.tensor([number]))
        score += float(gained)
    return score + float(model.final(state))


def test_scores_follow_the_recursion(tmp_path: Path) -> None:
    (tmp_path / "lm.arpa").write_text(ARPA)
    model = read_ngrams(tmp_path / "lm.arpa", TEXT)
    drawn = random.Random(0)
    for _ in range(100):
        numbers = drawn.choices([1, 2, 3], k=drawn.randint(0, 7))
        assert total(model, numbers) == pytest.approx(lm_score(tuple(numbers)), abs=1e-5)


def test_a_batch_of_any_shape_is_looked_up_at_once(tmp_path: Path) -> None:
    (tmp_path / "lm.arpa").write_text(ARPA)
    model = read_ngrams(tmp_path / "lm.arpa", TEXT)
    states = torch.arange(len(model.backoff))[:, None].expand(-1, 4)
    numbers = torch.tensor([1, 2, 3, 4]).expand(states.shape)
    scores, after = model.score(states, numbers)
    for row in range(len(states)):
        for column in range(4):
            one, state = model.score(states[row, column], numbers[row, column])
            assert float(one) == float(scores[row, column]) and int(state) == int(after[row, column])


def random_texts(seed: int, count: int = 60) -> list[str]:
    drawn = random.Random(seed)
    words = ["abba", "ab", "ba", "bab", "cab", "c"]
    return [" ".join(drawn.choices(words, weights=[6, 5, 4, 3, 2, 1], k=drawn.randint(1, 8))) for _ in range(count)]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_probabilities_after_every_history_sum_to_one(order: int, tmp_path: Path) -> None:
    model, path = fitted(tmp_path, order)
    read = read_ngrams(path, model)
    states = torch.arange(len(read.backoff))[:, None].expand(-1, model.vocab_size)
    numbers = torch.arange(model.vocab_size).expand(states.shape)
    scores, _ = read.score(states, numbers)
    assert scores.exp().sum(dim=1).tolist() == pytest.approx([1.0] * len(states), abs=1e-4)


def fitted(folder: Path, order: int, units: str = "pieces") -> tuple[TextModel, Path]:
    """A language model by the commands, from a text file."""
    (folder / "texts.txt").write_text("\n".join(random_texts(0)) + "\n")
    words = ["--texts", f"{folder}/texts.txt", "--kind", "characters", "--case", "lower", "--punctuation", "remove"]
    assert fit_text.main([*words, "--out", f"{folder}/text.json"]) == 0
    words = ["--texts", f"{folder}/texts.txt", "--text-model", f"{folder}/text.json", "--order", str(order)]
    assert main([*words, "--units", units, "--out", f"{folder}/lm.arpa"]) == 0
    return TextModel.load(folder / "text.json"), folder / "lm.arpa"


def test_longer_histories_tell_more(tmp_path: Path) -> None:
    """On texts of the same source, held out."""
    scores = []
    for order in (1, 2, 3, 5):
        model, path = fitted(tmp_path, order)
        read = read_ngrams(path, model)
        scores.append(sum(total(read, model.encode(text)) for text in random_texts(1, 20)))
    assert scores == sorted(scores)


def test_kneser_ney_worked_by_hand() -> None:
    """Texts `a b`, `a c` and `a b`: after a, b twice and c once.

    Bigrams: four kinds, `a c` and `c </s>` once, `a b` and `b </s>` twice, `<s> a` three times: D = 2 / (2 + 4) = 1/3.
    p(b | a) = (2 - D) / 3 + (2 D / 3) p(b). Unigrams count what comes before: a 1, b 1, c 1, </s> 2: D = 3 / (3 + 2).
    p(b) = (1 - 0.6) / 5 + (4 * 0.6 / 5) / 5 with the five units a, b, c, </s>, <unk>.
    """
    grams = {gram: math.exp(score) for gram, score, _ in kneser_ney([["a", "b"], ["a", "c"], ["a", "b"]], (), 2)}
    unigram = 0.4 / 5 + 2.4 / 25
    assert grams[("b",)] == pytest.approx(unigram)
    assert grams[("a", "b")] == pytest.approx((2 - 1 / 3) / 3 + (2 / 3 / 3) * unigram)
    assert grams[("<unk>",)] == pytest.approx(2.4 / 25)


def test_words_are_units_too(tmp_path: Path) -> None:
    model, path = fitted(tmp_path, 2, units="words")
    grams = read_arpa(path)
    assert ("abba", "ab") in grams and not any("▁" in word for gram in grams for word in gram)
    assert units_of("ABBA, ab!", model, "words") == ["abba", "ab"]
    assert math.isfinite(arpa_score(grams, ["ab", "zoo", "</s>"]))


def test_histories_are_listed(tmp_path: Path) -> None:
    _, path = fitted(tmp_path, 4)
    grams = read_arpa(path)
    assert all(gram[:-1] in grams for gram in grams if gram[:-1])


def test_named_errors(tmp_path: Path) -> None:
    for content in ("", "nothing", "\\data\\\n\n\\1-grams:\nx a\n"):
        (tmp_path / "lm.arpa").write_text(content)
        with pytest.raises(CorruptFile, match="not an ARPA file"):
            read_ngrams(tmp_path / "lm.arpa", TEXT)
    (tmp_path / "lm.arpa").write_text(ARPA.replace("-1.5\t<unk>\n", "").replace("-0.5\t▁", "-0.5\tthe"))
    with pytest.raises(ConfigError, match="no '▁' and no <unk>"):
        read_ngrams(tmp_path / "lm.arpa", TEXT)
    (tmp_path / "lm.arpa").write_text(ARPA.replace("-0.9\ta a\t-0.05\n", ""))
    with pytest.raises(CorruptFile, match="`a a a` without its first words"):
        read_ngrams(tmp_path / "lm.arpa", TEXT)
    with pytest.raises(CorruptFile, match="No such file"):
        read_ngrams(tmp_path / "none.arpa", TEXT)
    with pytest.raises(ConfigError, match="no texts"):
        list(kneser_ney([], (), 2))
    with pytest.raises(ConfigError, match="UTF-8"):
        list(fit_text.read_texts([str(tmp_path / "none.txt")]))


def test_pieces_the_file_lacks_count_as_unknown(tmp_path: Path) -> None:
    text = train_text_model(["a b"], TextConfig(kind="characters", vocab_size=None, normalization=PLAIN))
    (tmp_path / "lm.arpa").write_text(ARPA)
    model = read_ngrams(tmp_path / "lm.arpa", text)
    lacking, unknown = (
        float(model.score(torch.tensor(0), torch.tensor(number))[0]) for number in (text.pieces.index("b"), 1)
    )
    assert lacking == unknown == pytest.approx(-1.5 * math.log(10))
