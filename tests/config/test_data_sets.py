"""The known data sets, and the sampling protocol in a header."""

import pytest

from hpm_video.config.data_sets import DATA_SETS, SamplingProtocol, find_protocol, protocol_entry, read_protocol
from hpm_video.types import UserError


def test_a_header_says_its_protocol_or_its_name_does() -> None:
    own = SamplingProtocol("dense", 7, 1)
    assert read_protocol({"name": "ssv2", **protocol_entry(own)}, "f") == own
    assert read_protocol({"name": "ucf101_split2"}, "f") == DATA_SETS["ucf101"].protocol == find_protocol("ucf101")
    assert read_protocol({"name": "mine"}, "f") is None and protocol_entry(None) == {}


@pytest.mark.parametrize(
    "entry",
    [3, {}, {"sampling": "odd", "num_clips": 1, "num_crops": 1}, {"sampling": "dense", "num_clips": 0, "num_crops": 1}],
)
def test_a_damaged_protocol(entry) -> None:
    with pytest.raises(UserError, match=r"manifest.json: protocol .*; expected as in"):
        read_protocol({"name": "mine", "protocol": entry}, "manifest.json")
