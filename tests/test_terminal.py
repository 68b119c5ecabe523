"""Text for a terminal: control characters are shown, not carried out."""

import io

from hpm_video.terminal import PlainStream, printable


def test_control_characters_are_shown() -> None:
    assert printable("a\x1b[31mb\u202ec\udcff\ttab\n") == "a\\x1b[31mb\\u202ec\\udcff\ttab\n"


def test_a_plain_stream_writes_nothing_else() -> None:
    stream = io.StringIO()
    plain = PlainStream(stream)
    plain.writelines(["a\x07", "b\n"])
    assert plain.write("\x9b") == 4 and plain.getvalue() == "a\\x07b\n\\x9b"
