"""Named errors: each says what was wrong and what to do; a command prints that sentence and exits 2."""


def one_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class VoxtokError(Exception):
    """What the user can mend; the message is the whole story."""


class ConfigError(VoxtokError):
    """An option's value is impossible, or two options contradict each other."""


class ManifestError(VoxtokError):
    """A manifest (cuts, recordings, Shar folder, token store) cannot be read or is inconsistent."""


class CorruptFile(VoxtokError):
    """A file of ours is damaged, of another format, or of a version this release does not know."""


class OutOfMemory(VoxtokError):
    """One utterance alone does not fit in the device's memory."""


class MissingPart(VoxtokError):
    """An optional package is not installed or does not load; the message names the pip command."""


class TokenizerMismatch(VoxtokError):
    """Tokens made with one tokenizer were given to a consumer made for another."""


class BadText(VoxtokError):
    """A sentence cannot be said or read: it has no words, or a character, word or phone that is not known."""


class BadAudio(VoxtokError):
    """One recording cannot be used: `reason` is one of manifests.audio.REASONS, `detail` says more."""

    def __init__(self, cut_id: str, reason: str, detail: str) -> None:
        super().__init__(f"{cut_id}: {reason}: {detail}")
        self.cut_id = cut_id
        self.reason = reason
        self.detail = detail

    def row(self) -> dict[str, str]:
        """The line of rejected.jsonl."""
        return {"id": self.cut_id, "reason": self.reason, "detail": self.detail}

    def __reduce__(self) -> tuple[type["BadAudio"], tuple[str, str, str]]:
        """Pickle by the three arguments: worker processes hand these back to the parent."""
        return BadAudio, (self.cut_id, self.reason, self.detail)
