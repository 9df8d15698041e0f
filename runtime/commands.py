"""The `voxtok` command: a table of verbs in the order data flows, whose modules load on use."""

import importlib
import logging
import sys
from collections.abc import Sequence

from voxtok.runtime.errors import VoxtokError

COMMANDS = {
    "corpus": ("voxtok.manifests.corpora", "a corpus on disk, or a synthetic one -> Lhotse cuts"),
    "check": ("voxtok.manifests.check", "cuts -> what is wrong with their audio"),
    "label": ("voxtok.tokenize.label", "cuts -> token store of phones or pauses, which guides pretrain"),
    "pretrain": ("voxtok.tokenize.pretrain", "token stores -> SSL model, by masked prediction (HuBERT)"),
    "distill": ("voxtok.tokenize.distill", "SSL model -> a small one that imitates it (DistilHuBERT)"),
    "average": ("voxtok.tokenize.average", "SSL models of several trainings -> the mean of their weights"),
    "fit": ("voxtok.tokenize.fit", "cuts -> tokenizer (SSL layer + quantizer)"),
    "encode": ("voxtok.tokenize.encode", "cuts or audio files -> tokens"),
    "bpe": ("voxtok.tokenize.bpe", "token stores -> subword units: train, encode, decode"),
    "export": ("voxtok.manifests.export", "token store -> text, Kaldi, fairseq, Parquet or flat arrays"),
    "import-codebook": ("voxtok.tokenize.import_codebook", "published k-means file -> tokenizer"),
    "import-codec": ("voxtok.tokenize.import_codec", "neural codec (EnCodec, DAC, Mimi) -> tokenizer"),
    "train-asr": ("voxtok.asr.train_asr", "token stores with transcripts -> recognizer"),
    "pool": ("voxtok.vocoder.make_pool", "a speaker's recordings -> matching pool for voice conversion"),
    "convert": ("voxtok.vocoder.convert", "speech or token stores -> the same words in another voice (kNN-VC)"),
    "score-conversion": ("voxtok.vocoder.score_conversion", "conversions and recordings -> whose voice, how close"),
    "import-knnvc": ("voxtok.vocoder.import_knnvc", "kNN-VC's published HiFi-GAN -> vocoder"),
    "prematch": ("voxtok.vocoder.prematch", "cuts -> frames of speakers' other utterances, to train vocoders on"),
    "quality": ("voxtok.tokenize.quality", "token store -> purity, PNMI, ABX, UED, bitrate: JSON and page"),
    "rate-distortion": ("voxtok.tokenize.rate_distortion", "quantizers on the same features -> quality over bitrate"),
    "train-vocoder": ("voxtok.vocoder.train_vocoder", "tokens or features of speech -> vocoder"),
    "synthesize": ("voxtok.vocoder.synthesize", "token store -> waveforms and their manifest"),
    "resynthesize": ("voxtok.vocoder.resynthesize", "audio files -> tokens -> audio, to hear what tokens keep"),
    "vocoder-quality": ("voxtok.vocoder.speech_quality", "recordings and synthetic speech -> scores, JSON and page"),
    "fit-speaker": ("voxtok.vocoder.speaker_fit", "cuts with speakers -> a light speaker embedding"),
    "sweep": ("voxtok.tokenize.sweep", "cuts -> token quality of several layers and vocabulary sizes"),
    "text-model": ("voxtok.asr.fit_text", "transcripts -> characters or subword units to write with"),
    "ngram": ("voxtok.asr.ngram_fit", "texts -> n-gram language model (ARPA)"),
    "graph": ("voxtok.asr.graph", "n-gram language model over words -> decoding graph"),
    "decode-asr": ("voxtok.asr.decode_asr", "token stores -> text, and its error rates"),
    "transcribe": ("voxtok.asr.transcribe", "audio files -> text with times and confidences of words"),
    "score": ("voxtok.asr.score", "hypotheses and references -> WER, CER, intervals, alignments"),
    "train-tts": ("voxtok.tts.train_tts", "token store with transcripts -> text-to-token model"),
    "say": ("voxtok.tts.say", "text -> speech, in a trained voice or that of a reference"),
    "tts-quality": ("voxtok.tts.tts_quality", "speech of voxtok say -> MCD, F0, durations, voices, failures"),
    "train-lm": ("voxtok.tts.train_lm", "token stores -> unit language model"),
    "train-tts-lm": ("voxtok.tts.train_tts_lm", "token store with transcripts -> language model that speaks"),
    "continue": ("voxtok.tts.continuation", "spoken prompt -> how a unit language model goes on, as speech"),
}


def usage() -> str:
    """The table of commands."""
    rows = [f"  {name:16} {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: voxtok COMMAND [options]",
            "",
            *rows,
            "",
            "voxtok COMMAND --help shows the options; --debug shows the traceback of an error.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; a VoxtokError is printed as one sentence, status 2, unless --debug is given."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if words[0] not in COMMANDS:
        print(f"voxtok: unknown command {words[0]!r}\n\n{usage()}", file=sys.stderr)
        return 2
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("voxtok").setLevel(logging.INFO)
    try:
        status: int = importlib.import_module(COMMANDS[words[0]][0]).main(words[1:])
        return status
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    except (VoxtokError, OSError) as error:
        if debug:
            raise
        print(f"voxtok {words[0]}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"voxtok {words[0]}: interrupted; run the same command again to go on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
