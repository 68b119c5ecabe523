"""The progress of long work."""

import logging

from hpm_video import progress
from hpm_video.progress import Progress, tell_size, tell_time, track


def test_a_line_now_and_then_without_a_terminal(caplog, monkeypatch) -> None:
    caplog.set_level(logging.INFO, "hpm_video")
    clock = iter([0.0, 1.0, 20.0, 21.0, 40.0, 40.0, 40.0, 40.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Progress("scan x", "files", 10, num_before=2) as meter:
        for num_done in (3, 6, 7, 10):
            meter.show(num_done, num_bad=1)
    assert caplog.messages == [
        "scan x: 2 of 10 files were done before",
        "scan x: 6 of 10 files, 0.2 files/s, 1 bad, 0:00:20 left",
        "scan x: 10 of 10 files, 0.2 files/s, 1 bad, 0:00:00 left",
    ]
    assert list(track([3, 4])) == [3, 4]


def test_times_and_sizes() -> None:
    assert [tell_time(s) for s in (0.4, 61, 36005)] == ["0:00:00", "0:01:01", "10:00:05"]
    assert [tell_size(n) for n in (999, 1500, 20e9, 3e12)] == ["999 bytes", "1.5 kB", "20.0 GB", "3.0 TB"]
