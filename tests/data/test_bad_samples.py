"""The count of samples that cannot be read."""

import pytest

from hpm_video.data.bad_samples import BadSamples
from hpm_video.errors import UserError
from hpm_video.types import Failure


def test_each_sample_is_logged_once_and_counted_each_time(caplog) -> None:
    bad = BadSamples(0.5, "left out")
    bad.add([Failure("a.mp4", "cut"), Failure("a.mp4", "cut")], num_good=3)
    assert (bad.num_bad, bad.num_good, bad.names) == (2, 3, ["a.mp4: cut"])
    assert caplog.text.count("unreadable, left out: a.mp4: cut") == 1


def test_too_many_stop_the_command() -> None:
    bad = BadSamples(0.1, "left out", known=[Failure("a.mp4", "cut")])
    bad.check(2, 98)
    bad.check(1, 2)  # too few to judge
    with pytest.raises(UserError, match=r"20 of 118 samples .*data.max_bad_share 0.1 .*a.mp4: cut"):
        bad.check(20, 98)
    bad.add([Failure("b.mp4", "empty")] * 3, num_good=17)
    with pytest.raises(UserError, match="3 of 20 samples"):
        bad.check()
