"""Text for a terminal: control characters are shown, not carried out."""

import io
import logging

from hpm_video.errors import UnreadableVideo
from hpm_video.terminal import PlainStream, printable
from hpm_video.train.metrics import PlainFormatter


def test_control_characters_are_shown() -> None:
    assert printable("a\x1b[31mb\u202ec\udcff\ttab\n") == "a\\x1b[31mb\\u202ec\\udcff\ttab\n"


def test_a_plain_stream_writes_nothing_else() -> None:
    stream = io.StringIO()
    plain = PlainStream(stream)
    plain.writelines(["a\x07", "b\n"])
    assert plain.write("\x9b") == 4 and plain.getvalue() == "a\\x07b\n\\x9b"


def test_a_message_of_the_log_is_one_line() -> None:
    record = logging.LogRecord("hpm_video", logging.INFO, "", 0, "unreadable: %s", ("a\n12:00:00 done\x1b.mkv",), None)
    assert PlainFormatter("%(message)s").format(record) == "unreadable: a\\n12:00:00 done\\x1b.mkv"
    assert str(UnreadableVideo("a\nb.mkv", "no frame")) == "a\\nb.mkv: no frame"
