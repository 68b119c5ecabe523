"""The files of a tree."""

from hpm_video.catalog.listing import FileIndex, list_frames


def test_frames_are_in_the_order_of_their_numbers(tmp_path) -> None:
    for name in ("img_9.jpg", "img_10.jpg", "img_11.JPG", "x.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert list_frames(tmp_path) == ["img_9.jpg", "img_10.jpg", "img_11.JPG"]


def test_index_finds_a_file_with_its_folder_or_without(tmp_path) -> None:
    for name in ("x/run/1.avi", "x/jump/1.avi"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"x")
    index = FileIndex(tmp_path)
    assert index.find("run/1") == "x/run/1.avi" and index.find("gone", "1") == "x/jump/1.avi"
    assert index.find("gone") is None
