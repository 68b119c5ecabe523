"""A folder in the own layout of a known set."""

import json

import pytest

from hpm_video.catalog.layouts import annotation_names, find_layout
from hpm_video.types import UserError


@pytest.fixture()
def root(tmp_path):
    (tmp_path / "set" / "labels").mkdir(parents=True)
    for name, content in (("labels", {"Up": "0"}), ("train", [{"id": "1", "template": "[Up]"}])):
        (tmp_path / "set" / "labels" / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "set" / "1.mp4").write_bytes(b"x")
    return tmp_path / "set"


def test_a_layout_is_recognised_and_read(root) -> None:
    layout = find_layout(root)
    assert layout is not None and layout.name == "ssv2" and layout.annotations == root / "labels"
    assert [row.path for row in layout.read_split(root, "train").splits["train"]] == ["1.mp4"]
    assert layout.read_split(root, "validation").splits == {}
    assert {"labels.json", "labels/train.json"} <= set(annotation_names())


def test_a_folder_without_one(root, tmp_path) -> None:
    assert find_layout(tmp_path) is None
    with pytest.raises(UserError, match=r"data.format: ssv2, but .* does not hold SSv2's labels.json \+ train.json"):
        find_layout(tmp_path, name="ssv2")
    with pytest.raises(UserError, match=r"data.annotations: .*set does not hold SSv2's"):
        find_layout(tmp_path, given=root)
