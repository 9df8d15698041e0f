"""How well a recognizer does on held-out data while it trains: losses, and errors of greedy CTC decoding."""

import torch

from voxtok.asr.batches import Batch, TrainingSet, plan_epoch
from voxtok.asr.ctc_search import ctc_greedy
from voxtok.asr.losses import losses
from voxtok.asr.padded import Padded
from voxtok.asr.recognizer import Recognizer
from voxtok.asr.wer import Errors, character_errors, word_errors
from voxtok.runtime.distributed import Ranks


@torch.inference_mode()
def evaluate(
    recognizer: Recognizer, data: TrainingSet, batch_frames: int, ranks: Ranks, *, dtype: torch.dtype
) -> dict[str, float]:
    """dev_loss of each head by piece of text and, where there is CTC, dev_wer and dev_cer; every rank does its part.

    Args:
        recognizer: left as it was, in training or evaluation mode.
        data: held-out utterances, not augmented.
        batch_frames: input frames of a batch.
        ranks: this process's place.
        dtype: of matrix products.
    """
    was_training = recognizer.training
    recognizer.eval()
    plan = plan_epoch(data.lengths, batch_frames, seed=0, epoch=0)
    names = ["loss", *recognizer.config.heads]
    sums = torch.zeros(len(names) + 1, dtype=torch.float64)
    words, letters = Errors(), Errors()
    for items in plan[ranks.rank :: ranks.world_size]:
        batch = data.batch(items, seed=0, epoch=0).to(recognizer.device)
        with torch.autocast(recognizer.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            encoded = recognizer.encode(batch.inputs)
            terms = losses(recognizer, encoded, batch.texts, smoothing=0.0)
        sums += torch.stack([*(terms[name].sum() for name in names), batch.texts.lengths.sum()]).double().cpu()
        if recognizer.ctc is not None:
            of_words, of_letters = greedy_errors(recognizer, encoded, batch)
            words, letters = words + of_words, letters + of_letters
    recognizer.train(was_training)
    counts = [*sums.tolist(), words.total, words.length, letters.total, letters.length]
    counted = torch.tensor(counts, dtype=torch.float64, device=recognizer.device)
    *totals, pieces, word_edits, num_words, letter_edits, num_letters = ranks.all_reduce(counted).tolist()
    found = {f"dev_{name}": round(total / pieces, 5) for name, total in zip(names, totals, strict=True)}
    if recognizer.ctc is not None:
        found["dev_wer"] = round(word_edits / num_words, 5)
        found["dev_cer"] = round(letter_edits / num_letters, 5)
    return found


def greedy_errors(recognizer: Recognizer, encoded: Padded, batch: Batch) -> tuple[Errors, Errors]:
    """Word and character errors of greedy CTC decoding over a batch."""
    found = ctc_greedy(Padded(recognizer.ctc_log_probs(encoded), encoded.lengths))
    words, letters = Errors(), Errors()
    for hypothesis, row, length in zip(found, batch.texts.values.tolist(), batch.texts.lengths.tolist(), strict=True):
        said, heard = recognizer.text.decode(row[:length]), recognizer.text.decode(hypothesis.numbers)
        words += word_errors(said, heard)
        letters += character_errors(said, heard)
    return words, letters
