"""The readers of videos. To add one, write its module in data/readers/ and add its row here."""

from dataclasses import dataclass

from hpm_video.config.tables import Row, Table


@dataclass(frozen=True, kw_only=True)
class Reader(Row):
    """A library that decodes videos; `help` is its name in messages.

    Its module has `load()`, which imports the library or raises, and `read(media, choose, fps, limits)`, which returns frames
    uint8 [T, H, W, 3] or raises UnreadableVideo. A reader that can read pieces of films takes `span` too.
    """

    library: str  # the package that is imported, and whose version is reported
    in_auto: bool = False  # data.reader=auto tries these readers, in the order of the rows


READERS = Table(  # the first one is always installed, and reads the files that the others cannot read
    pyav=Reader(help="PyAV", implementation="hpm_video.data.readers.pyav", library="av", in_auto=True),
    torchcodec=Reader(
        help="torchcodec", implementation="hpm_video.data.readers.torchcodec", library="torchcodec", in_auto=True
    ),
    # unmaintained, and broken files can hang it
    decord=Reader(help="decord", implementation="hpm_video.data.readers.decord", library="decord"),
)
FALLBACK = next(iter(READERS))


def list_auto() -> list[str]:
    """Return the readers that data.reader=auto tries, in their order."""
    return [name for name, row in READERS.items() if row.in_auto]
