"""The packets of a video stream: display times, key frames, and whether both can be trusted."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from hpm_video.data.readers.index import Index
from hpm_video.data.readers.limits import Limits

SEEKABLE_FORMATS = {"mov", "matroska"}  # each frame has a time stamp, and key frames are marked correctly
SEEKABLE_CODECS = {"h264", "hevc", "vp8", "vp9", "av1", "mjpeg", "ffv1"}
REORDERING_CODECS = {"h264", "hevc"}  # frames are not stored in display order
MAX_REORDERED = 64  # frames between a frame's position in the file and in display order
MAX_KEPT_BYTES = 64 << 20  # of packets kept from counting to decoding; beyond it they are read again
MAX_KEPT_PACKETS = 100_000


class Packets:
    """The packets of a stream in file order: when each is shown, and which are key frames."""

    def __init__(self, file: Any, stream: Any) -> None:
        self.stream = stream
        self.kept: list[Any] = []
        self.pts: list[int | None] = []
        self.keys: list[int] = []  # numbers of the packets that are key frames
        self.key_places: list[int] = []  # their positions in the file in bytes; -1 if unknown
        self.hidden: set[int] = set()  # numbers of the packets that an edit list cuts off
        self.is_doubtful = False  # decoding may give fewer frames than packets: count the frames as they come
        self.time_base = stream.time_base or 1
        self.codec = stream.codec_context.name.removeprefix("lib")
        self.is_damaged = False
        self.can_index = False  # like can_seek, but an edit list may hide frames of the first group
        self.can_seek = file.format.name.split(",")[0] in SEEKABLE_FORMATS and self.codec in SEEKABLE_CODECS

    @classmethod
    def of(cls, file: Any, stream: Any, limits: Limits, name: str) -> "Packets":
        """Read all packets of a stream. Raises UnreadableVideo if there are more than data.max_frames."""
        packets, num_bytes = cls(file, stream), 0
        for packet in file.demux(stream):
            if not packet.size:
                continue
            if packet.is_discard:
                packets.hidden.add(len(packets.pts))
            packets.is_damaged |= packet.is_corrupt
            if packet.is_keyframe:
                packets.keys.append(len(packets.pts))
                packets.key_places.append(-1 if packet.pos is None else packet.pos)
            packets.pts.append(packet.pts)
            limits.check_count(name, len(packets.pts))
            num_bytes += packet.size
            if num_bytes <= MAX_KEPT_BYTES and len(packets.kept) < MAX_KEPT_PACKETS:
                packets.kept.append(packet)
        packets._judge()
        return packets

    def _judge(self) -> None:
        """Decide whether seeking by time stamp finds exactly the frame that decoding from the start gives."""
        known = [p for p in self.pts if p is not None]
        starts_with_key = self.keys[:1] == [0]
        first = self.pts[self.keys[0]] if self.keys else None
        has_leading = first is not None and any(
            p is not None and p < first and i not in self.hidden for i, p in enumerate(self.pts)
        )  # frames that need a group that is not in the file
        is_whole = self.can_seek and not self.hidden and not self.is_damaged
        has_untimed = is_whole and len(known) < len(self.pts)  # packets without a time among others with one: not shown
        self.is_doubtful = not starts_with_key or has_leading or has_untimed
        unsure = self.is_doubtful or self.is_damaged or len(set(known)) < len(self.pts)
        exact = self.can_seek and not unsure and self._is_in_order(np.array(known, dtype=np.int64))
        self.can_seek, self.can_index = exact and not self.hidden, exact and self._hides_first_alone()

    def _hides_first_alone(self) -> bool:
        """Return whether all hidden frames are in the first group and come before the first shown frame."""
        if not self.hidden:
            return True
        shown = [p for i, p in enumerate(self.pts) if p is not None and i not in self.hidden]
        last = self.keys[1] if len(self.keys) > 1 else len(self.pts)
        return bool(shown) and all(i < last and (self.pts[i] or 0) < min(shown) for i in self.hidden)

    def _is_in_order(self, pts: np.ndarray) -> bool:
        """Return False if time stamps go backwards, except by reordering within a group."""
        if self.codec not in REORDERING_CODECS:
            return bool((np.diff(pts) > 0).all())
        highest = np.maximum.accumulate(pts)
        keys = np.array(self.keys[1:], dtype=np.int64)
        moved = np.abs(np.argsort(np.argsort(pts)) - np.arange(len(pts))).max()
        return bool((pts[keys] > highest[keys - 1]).all()) and int(moved) <= MAX_REORDERED

    def times_s(self, fps: float) -> np.ndarray:
        """Return the times of the shown frames, ascending from 0; by the rate `fps` if some are unknown."""
        shown = [p for i, p in enumerate(self.pts) if i not in self.hidden] if self.hidden else self.pts
        if None in shown or len(set(shown)) < len(shown):
            return np.arange(len(shown)) / fps
        times = np.sort(np.array(shown, dtype=np.float64))
        return (times - times[:1]) * float(self.time_base)

    def index(self) -> Index:
        """Return the index of the file, if `can_index`."""
        lists = (self.pts, self.keys, self.key_places, sorted(self.hidden))
        pts, keys, key_places, hidden = (np.array(values, dtype=np.int64) for values in lists)
        return Index(pts, keys, key_places, hidden, Fraction(self.time_base))


class FilmPackets:
    """Read the packets of a video from its key frames on, from memory or by seeking in the file."""

    def __init__(self, file: Any, stream: Any, index: Index, kept: list[Any] | None = None) -> None:
        """Prepare to read. kept: all packets of the file, if they are in memory."""
        self.file, self.stream, self.index = file, stream, index
        self.kept = kept or []

    def from_key(self, key: int) -> Iterator[Any]:
        """Yield the packets from a key frame on, then None, which flushes the decoder. `key`: as in `index.shown_keys`.

        Yield only None if the key frame is not found.
        """
        number = int(self.index.shown_keys[1][key])
        if len(self.kept) == len(self.index.pts):
            yield from self.kept[number:]
        else:
            yield from self._seek(key, number)
        yield None

    def _seek(self, key: int, number: int) -> Iterator[Any]:
        """Seek to a key frame. Some containers do not seek by display times: then try earlier ones."""
        key_pts = self.index.shown_keys[0]
        place = int(self.index.key_places[np.searchsorted(self.index.keys, number)])
        wanted = int(self.index.pts[number])
        for target in (key_pts[key], key_pts[max(0, key - 1)], key_pts[0]):
            self.file.seek(int(target), stream=self.stream, backward=True)
            found = False
            for packet in self.file.demux(self.stream):
                found |= packet.pts == wanted and (place < 0 or packet.pos == place)
                if found and packet.size:
                    yield packet
                elif packet.is_keyframe and packet.pts is not None and packet.pts > wanted:
                    break  # the key frame lies before the position that seeking reached
            if found:
                return
