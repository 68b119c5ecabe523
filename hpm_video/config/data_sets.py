"""The known data sets. To add one, write its module in catalog/, add its row here and its recipe in datasets/."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from hpm_video.config.tables import Row, Table
from hpm_video.errors import UserError

SAMPLINGS = ("segments", "dense")


class SamplingProtocol(NamedTuple):
    """The frame sampling of a data set, and the number of views of a video that a test averages."""

    sampling: str  # segments or dense
    num_clips: int
    num_crops: int


@dataclass(frozen=True, kw_only=True)
class DataSet(Row):
    """A data set; `help` is its name in messages.

    A set with a `layout` is read as it was downloaded, without a recipe: catalog/layouts.py lists what its module defines.
    """

    protocol: SamplingProtocol | None = None
    left_right: bool = False  # the labels distinguish left from right: a flip would change the class
    layout: str = ""  # files by which data.format=auto recognises a folder of the set


CATALOG = "hpm_video.catalog"
# The names of a set's manifests begin with its name here. Protocols: VideoMAE, arXiv 2203.12602, appendix
DATA_SETS = Table(
    ssv2=DataSet(
        help="SSv2",
        implementation=f"{CATALOG}.ssv2",
        protocol=SamplingProtocol("segments", 2, 3),
        left_right=True,
        layout="labels.json + train.json",
    ),
    kinetics=DataSet(help="Kinetics", implementation=f"{CATALOG}.kinetics", protocol=SamplingProtocol("dense", 5, 3)),
    ucf101=DataSet(help="UCF101", implementation=f"{CATALOG}.ucf101", protocol=SamplingProtocol("dense", 5, 3)),
    hmdb51=DataSet(help="HMDB51", implementation=f"{CATALOG}.hmdb51", protocol=SamplingProtocol("dense", 10, 3)),
    imagenet=DataSet(
        help="ImageNet-1k", implementation=f"{CATALOG}.imagenet", protocol=SamplingProtocol("segments", 1, 1)
    ),
)
UNKNOWN = SamplingProtocol("segments", 2, 3)  # for a set without a protocol; its use is logged


def list_layouts() -> dict[str, DataSet]:
    """Return the sets that need no recipe, by name."""
    return {name: row for name, row in DATA_SETS.items() if row.layout}


def describe_layouts(rows: Iterable[DataSet], separator: str = ", ") -> str:
    """Return the files that distinguish the given sets, in words."""
    return separator.join(f"{row.help}'s {row.layout}" for row in rows)


def find_data_set(name: str) -> DataSet | None:
    """Return the known set whose name a manifest's name begins with: ucf101 for ucf101_split2."""
    return next((row for known, row in DATA_SETS.items() if name.startswith(known)), None)


def find_protocol(name: str) -> SamplingProtocol | None:
    """Return the protocol of that set."""
    row = find_data_set(name)
    return row.protocol if row else None


def protocol_entry(protocol: SamplingProtocol | None) -> dict[str, Any]:
    """Return the entry for the header of a manifest or of shards; {} if the set has no protocol."""
    return {} if protocol is None else {"protocol": protocol._asdict()}


def read_protocol(header: Mapping[str, Any], where: str) -> SamplingProtocol | None:
    """Return the protocol in a header. Earlier versions wrote none: then the name of the set tells it.

    Raises UserError if it is damaged; `where`: the file, for the message.
    """
    entry = header.get("protocol")
    if entry is None:
        return find_protocol(header["name"])
    if isinstance(entry, dict) and set(entry) == set(SamplingProtocol._fields) and entry["sampling"] in SAMPLINGS:
        counts = entry["num_clips"], entry["num_crops"]
        if all(type(count) is int and count > 0 for count in counts):
            return SamplingProtocol(entry["sampling"], *counts)
    raise UserError(
        f'{where}: protocol {entry}; expected as in {{"sampling": "segments", "num_clips": 2, "num_crops": 3}}'
    )
