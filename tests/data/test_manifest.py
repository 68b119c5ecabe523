"""Which videos: SSv2's own files, folders, and what is wrong with them."""

import json

import pytest

from hpm_video.catalog.rows import Row
from hpm_video.config import DataConfig
from hpm_video.data.manifest import Manifest
from hpm_video.data.source import open_source
from hpm_video.data.splits import hold_out
from hpm_video.streams import HELD_OUT
from hpm_video.types import UserError


@pytest.fixture()
def ssv2(tmp_path):
    videos = tmp_path / "20bn-something-something-v2"
    videos.mkdir()
    for number in range(1, 7):
        (videos / f"{number}.{'mp4' if number == 2 else 'webm'}").write_bytes(b"x")
    (tmp_path / "labels.json").write_text(
        json.dumps({"Moving something up": "0", "Pushing something off of something": "1"})
    )
    templates = ["Moving [something] up", "Pushing [something] off of [something]"]
    rows = [
        {"id": str(n), "label": "moving a cup up", "template": templates[n % 2], "placeholders": ["a cup"]}
        for n in range(1, 7)
    ]
    (tmp_path / "train.json").write_text(json.dumps(rows[:4]))
    (tmp_path / "validation.json").write_text(json.dumps(rows[4:]))
    return tmp_path


def test_ssv2(ssv2) -> None:
    train = open_source(DataConfig(root=str(ssv2)), "train")
    assert (
        train.labels == [1, 0, 1, 0] and train.paths[1].endswith("2.mp4") and train.classes[0] == "Moving something up"
    )
    assert len(open_source(DataConfig(root=str(ssv2)), "validation").paths) == 2


def test_official_names_in_a_labels_folder(ssv2) -> None:
    (ssv2 / "labels").mkdir()
    for name in ("labels", "train", "validation"):
        (ssv2 / f"{name}.json").rename(ssv2 / "labels" / f"something-something-v2-{name}.json")
    assert len(open_source(DataConfig(root=str(ssv2)), "train").paths) == 4


def test_row_without_a_file_is_named(ssv2, caplog) -> None:
    (ssv2 / "20bn-something-something-v2" / "3.webm").unlink()
    with pytest.raises(UserError, match=r"1 of 4 rows have no file: train.json, row 3 \(id 3\)"):
        open_source(DataConfig(root=str(ssv2)), "train")
    assert len(open_source(DataConfig(root=str(ssv2), max_bad_share=0.5), "train").paths) == 3


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("train.json", "[{]", "train.json, line 1: no valid JSON"),
        ("train.json", "{}", "holds a dict; expected a list"),
        ("train.json", '[{"id": "1"}]', "train.json, row 1"),
        (
            "train.json",
            '[{"id": "1", "template": "Eating [something]"}]',
            "row 1: template 'Eating .something.' is not a class",
        ),
        ("train.json", "[]", "no rows"),
        ("labels.json", '{"a": "0", "b": "2"}', "class numbers are not 0 to 1"),
        ("labels.json", '{"a": "x"}', "expected class numbers"),
    ],
)
def test_broken_annotations_say_where(ssv2, file, content, words) -> None:
    (ssv2 / file).write_text(content)
    with pytest.raises(UserError, match=words):
        open_source(DataConfig(root=str(ssv2)), "train")


def test_folder(tmp_path) -> None:
    for name in ("b/2.MP4", "a 1.webm", "ü/x.mkv", ".hidden/y.mp4", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    manifest = open_source(DataConfig(root=str(tmp_path)), "train")
    assert manifest.paths == ["a 1.webm", "b/2.MP4", "ü/x.mkv"] and manifest.labels == [-1] * 3
    assert open_source(DataConfig(root=str(tmp_path)), "validation") is None


def test_links_are_followed_once(tmp_path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "elsewhere").mkdir()
    for file in ("root/a.mp4", "elsewhere/b.mp4"):
        (tmp_path / file).write_bytes(b"x")
    (tmp_path / "root" / "again").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "other").symlink_to(tmp_path / "elsewhere")
    assert open_source(DataConfig(root=str(tmp_path / "root")), "train").paths == ["a.mp4", "other/b.mp4"]


def test_of_two_files_of_an_id_the_webm(ssv2) -> None:
    (ssv2 / "20bn-something-something-v2" / "1.mp4").write_bytes(b"x")
    (ssv2 / "20bn-something-something-v2" / "2.webm").write_bytes(b"x")
    paths = open_source(DataConfig(root=str(ssv2)), "train").paths
    assert [path.split("/")[-1] for path in paths] == ["1.webm", "2.webm", "3.webm", "4.webm"]


def test_annotations_that_are_not_utf8(ssv2) -> None:
    (ssv2 / "labels.json").write_bytes(b'{"caf\xe9": "0"}')
    with pytest.raises(UserError, match="labels.json: not UTF-8"):
        open_source(DataConfig(root=str(ssv2)), "train")


def test_missing_empty_and_file_roots(tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for name, words in (
        ("none", "does not exist"),
        ("file", "is a file"),
        ("empty", "holds no video; looked for .webm"),
    ):
        with pytest.raises(UserError, match=words):
            open_source(DataConfig(root=str(tmp_path / name)), "train")
    with pytest.raises(UserError, match="data.format: ssv2"):
        open_source(DataConfig(root=str(tmp_path / "empty"), format="ssv2"), "train")


def test_hold_out_is_disjoint_and_leaves_something(tmp_path) -> None:
    for count, num, expected in ((40, 8, 8), (4, 8, 1), (1, 8, 1)):
        for number in range(count):
            (tmp_path / f"{number}.mp4").write_bytes(b"x")
        manifest = open_source(DataConfig(root=str(tmp_path)), "train")
        manifest = manifest.select(list(range(count)))
        train, held_out = hold_out(manifest, num, 0)
        assert len(held_out.paths) == expected and len(train.paths) >= 1
        assert count == 1 or not set(train.paths) & set(held_out.paths)


def test_held_out_rows_of_a_large_set_are_the_same(tmp_path, monkeypatch) -> None:
    manifest = Manifest.of(tmp_path, [Row(f"{n}.mp4") for n in range(50)], [], "x")
    drawn = sorted(HELD_OUT.numpy(3).permutation(50)[:7].tolist())
    monkeypatch.setenv("HPM_VIDEO_CACHE", str(tmp_path / "cache"))
    for least, num_kept in ((1000, 0), (10, 1), (10, 1)):  # drawn; drawn and kept; kept before
        monkeypatch.setattr("hpm_video.data.manifest.LEAST_SHARED_ROWS", least)
        rest, held = manifest.hold_out(7, 3)
        assert (
            held.paths == [f"{n}.mp4" for n in drawn]
            and len(list((tmp_path / "cache" / "rows").glob("*.arrow"))) == num_kept
        )
        assert rest.paths == [f"{n}.mp4" for n in range(50) if n not in drawn]
    assert manifest.hold_out(7, 4)[1].paths != held.paths
