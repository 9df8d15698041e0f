"""A Whisper with random weights and a vocabulary of bytes, as `save_pretrained` writes it."""

import json
from pathlib import Path

import torch
import transformers
from transformers.convert_slow_tokenizer import bytes_to_unicode

SPECIAL = ("<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>")


def save_tiny_whisper(folder: Path) -> Path:
    """The folder of a model that writes 15 letters about any audio; other letters about other audio."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = [*sorted(bytes_to_unicode().values()), *SPECIAL]
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    unwritten = [number for number, piece in enumerate(pieces) if not (piece.isascii() and piece.isalpha())]
    end, start = pieces.index(SPECIAL[0]), pieces.index(SPECIAL[1])
    config = transformers.WhisperConfig(
        vocab_size=len(pieces), d_model=16, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=16, max_target_positions=16, init_std=1.0,
        bos_token_id=end, eos_token_id=end, pad_token_id=end, decoder_start_token_id=start,
        begin_suppress_tokens=None, suppress_tokens=unwritten,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.WhisperForConditionalGeneration(config).save_pretrained(folder)
    tokenizer = transformers.WhisperTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    transformers.WhisperProcessor(transformers.WhisperFeatureExtractor(), tokenizer).save_pretrained(folder)
    return folder
