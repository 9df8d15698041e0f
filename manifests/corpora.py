"""`voxtok corpus`: speech -> Lhotse cuts. Three ways: synthetic speech, a folder of audio, or a corpus Lhotse knows."""

import sys
from collections.abc import Sequence

USAGE = """\
usage: voxtok corpus WAY [options]

  synth         make synthetic speech with exact phone times: no download
  folder        index a folder of wav, flac, ogg, mp3 or opus files and their transcripts
  join          write several corpora as one, without the utterances of another
  split         write a corpus as parts that share no speaker
  speed         write a corpus at several speeds, as further cuts
  NAME          prepare (--download: and download) a corpus that Lhotse knows: librispeech, ljspeech, vctk, ...

Each writes cuts.jsonl.gz, or one cuts_PART.jsonl.gz a part. voxtok corpus WAY --help shows the options.
"""


def main(argv: Sequence[str]) -> int:
    """The command `voxtok corpus`."""
    if not argv or argv[0] in ("-h", "--help"):
        from voxtok.manifests.recipes import corpus_names

        print(f"{USAGE}\nCorpora that Lhotse knows: {', '.join(corpus_names())}")
        return 0 if argv else 2
    way, options = argv[0], argv[1:]
    if way == "synth":
        from voxtok.manifests.synth import main as synth

        return synth(options)
    if way == "folder":
        from voxtok.manifests.folder import main as folder

        return folder(options)
    if way == "join":
        from voxtok.manifests.join import main as join

        return join(options)
    if way == "split":
        from voxtok.manifests.split import main as split

        return split(options)
    if way == "speed":
        from voxtok.manifests.speed import main as speed

        return speed(options)
    if way.startswith("-"):
        print(
            f"voxtok corpus: error: the first word is synth, folder, join, split, speed or a corpus's name\n\n{USAGE}",
            file=sys.stderr,
        )
        return 2
    from voxtok.manifests.recipes import main as recipe

    return recipe(way, options)
