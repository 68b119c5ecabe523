"""Lists as people have them: each is read right, or refused with what to do; none is silently misread."""

import json
from pathlib import Path

import pytest

from hpm_video.catalog.columns import COLUMNS, SPLIT_WORDS
from hpm_video.catalog.path_lists import read_lists
from hpm_video.catalog.rows import Found, Row
from hpm_video.types import UserError

FILES = ("v/a.mp4", "v/b.mp4", "v/c.mp4", "v/d.mp4")


@pytest.fixture()
def root(tmp_path):
    for name in (*FILES, "frames/x/img_1.jpg", "frames/x/img_2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def read(root: Path, text: str | bytes, name: str = "list.csv", **more) -> Found:
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_lists(root, {"train": root / name}, **more)


def pairs(found: Found, split: str = "train") -> list[tuple[str, str]]:
    """(file, name of its class) of each row."""
    return [(row.path, found.classes[row.label] if row.label >= 0 else "") for row in found.splits[split]]


JUMPS = [("v/a.mp4", "jump"), ("v/b.mp4", "run")]


@pytest.mark.parametrize("word", ["file_name", "File Name", "video-path", "filename", "clip", *COLUMNS["path"].split()])
def test_every_name_of_a_path_column_is_a_header(root, word) -> None:
    assert pairs(read(root, f"{word},label\nv/a.mp4,jump\nv/b.mp4,run\n")) == JUMPS


@pytest.mark.parametrize("word", ["class_name", "Label", "action class", *COLUMNS["label"].split()])
def test_every_name_of_a_label_column_is_one(root, word) -> None:
    assert pairs(read(root, f"video_name,{word}\nv/a.mp4,jump\nv/b.mp4,run\n")) == JUMPS


@pytest.mark.parametrize(
    "text",
    [
        "file_name;label\nv/a.mp4;jump\nv/b.mp4;run\n",
        "v/a.mp4;jump\nv/b.mp4;run\n",
        "path|label\nv/a.mp4|jump\nv/b.mp4|run\n",
        "path;label;seconds\nv/a.mp4;jump;1,5\nv/b.mp4;run;2,5\n",
        "\ufefffile_name,label\r\nv/a.mp4,jump\r\nv/b.mp4,run\r\n",
        '"file_name","label"\n"v/a.mp4","jump"\n"v/b.mp4","run"\n',
        'path,label,caption\nv/a.mp4,jump,"one\ntwo, three"\nv/b.mp4,run,"x"\n',
        ",path,label,,\n0,v/a.mp4,jump,,\n1,v/b.mp4,run,,\n",
        "id,path,class,label\n0,v/a.mp4,jump,0\n1,v/b.mp4,run,1\n",
        "path,label,class_name\nv/a.mp4,4,jump\nv/b.mp4,9,run\n",
        "video_id,class\na,jump\nb,run\n",
        "id label\nv/a jump\nv/b run\n",
        "a jump\nb run\n",
        '[{"vid_name": "a", "label": "jump"}, {"vid_name": "b", "label": "run"}]',
        '[["v/a.mp4", "jump"], ["v/b.mp4", "run"]]',
        '{"file_name": "v/a.mp4", "label": "jump", "boxes": [1]}\n{"file_name": "v/b.mp4", "label": "run", "boxes": []}\n',
    ],
)
def test_forms_that_mean_the_same(root, text) -> None:
    for name in ("list.csv", "list.txt"):
        assert pairs(read(root, text, name)) == JUMPS


@pytest.mark.parametrize("word", [word for words in SPLIT_WORDS.values() for word in words.split()])
def test_a_split_column_distributes_the_rows(root, word) -> None:
    split = next(split for split, words in SPLIT_WORDS.items() if word in words.split())
    found = read(root, f"path,label,split\nv/a.mp4,x,train\nv/b.mp4,x,{word.title()}\nv/c.mp4,y,train\n")
    assert pairs(found, split)[:2][-1 if split != "train" else 1] == ("v/b.mp4", "x")
    assert len(found.splits["train"]) == (3 if split == "train" else 2)


def test_a_split_column_against_a_list_of_its_own(root) -> None:
    (root / "train.csv").write_text("path,label,split\nv/a.mp4,x,train\nv/b.mp4,y,val\n")
    (root / "val.csv").write_text("path,label\nv/c.mp4,x\n")
    with pytest.raises(UserError, match=r"train.csv, line 3: split 'validation' in the list that is given as --train"):
        read_lists(root, {"train": root / "train.csv", "validation": root / "val.csv"})
    (root / "val.csv").write_text("path,label,split\nv/c.mp4,x,train\n")
    with pytest.raises(UserError, match=r"val.csv, line 2: split 'train' in the list that is given as --validation"):
        read_lists(root, {"validation": root / "val.csv"})


def test_labels_that_are_numbers_name_the_classes_in_their_order(root) -> None:
    assert pairs(read(root, "path,label\nv/a.mp4,10\nv/b.mp4,9\n")) == [("v/a.mp4", "10"), ("v/b.mp4", "9")]
    found = read(root, "path,label\nv/a.mp4,10.0\nv/b.mp4,9.0\n")
    assert found.classes == ["9", "10"] and any("labels are numbers with gaps" in note for note in found.notes)
    found = read(root, "path,label,class\nv/a.mp4,1,alpha\nv/b.mp4,0,beta\n")
    assert found.classes == ["beta", "alpha"] and [row.label for row in found.splits["train"]] == [1, 0]


def test_whole_files_of_diving48(root) -> None:
    entries = [{"vid_name": name, "label": k, "start_frame": 0, "end_frame": 20} for k, name in enumerate("ab")]
    found = read(root, json.dumps(entries), "Diving48_V2_train.json")
    assert found.splits["train"] == [Row("v/a.mp4", 0), Row("v/b.mp4", 1)] and "whole files" in found.notes[0]
    entries[1]["vid_name"] = "a"  # two parts of a file
    with pytest.raises(UserError, match="a part of the file a; expected a folder of frames, or whole files"):
        read(root, json.dumps(entries), "x.json")


@pytest.mark.parametrize(
    ("header", "cells"),
    [
        ("path,start,end,label", "2.5,4"),
        ("path,start_s,stop_s,label", "2.5,4.0"),
        ("video_id,start_time,end_time,label", "00:02.5,00:00:04"),
        (
            "narration_id,video_id,start_timestamp,stop_timestamp,start_frame,stop_frame,label",
            "00:00:02.500,00:00:04.00,9,9",
        ),
        ("path,begin,stop,label", "2.5,4"),
    ],
)
def test_pieces_of_films(root, header, cells) -> None:
    """Twice a piece of one file, and the whole of another; the rows go through a manifest's csv and Parquet as they are."""
    before = "n," if header.startswith("narration") else ""
    empty = "," * cells.count(",")
    found = read(
        root,
        f"{header}\n{before}v/a.mp4,{cells},jump\n{before}v/a.mp4,0,2{empty[1:]},run\n{before}v/b.mp4,{empty},run\n",
    )
    assert found.splits["train"] == [
        Row("v/a.mp4", 0, start_s=2.5, stop_s=4.0),
        Row("v/a.mp4", 1, start_s=0.0, stop_s=2.0),
        Row("v/b.mp4", 1),
    ]


def test_start_and_end_of_folders_stay_numbers_of_frames(root) -> None:
    found = read(root, "path,start,end,label\nframes/x,1,2,jump\nframes/x,2,2,run\n")
    assert found.splits["train"] == [Row("frames/x", 0, 2), Row("frames/x", 1, 1, first_frame=1)]


def test_columns_that_are_not_used_are_named(root) -> None:
    found = read(root, "videoid,contentUrl,page_dir,name\na,http://x,v,A man jumps\nb,http://y,v,A man runs\n")
    assert pairs(found) == [("v/a.mp4", ""), ("v/b.mp4", "")]
    assert found.notes == ("columns that are not used: contentUrl, page_dir, name; if one of them is the label: --columns "
                           "path,label,- (- for one that is not used)",)  # fmt: skip
    assert pairs(read(root, "path,activated\nv/a.mp4,jump\nv/b.mp4,run\n", columns=("path", "label"))) == JUMPS
    assert pairs(read(root, "thing,what\nv/a.mp4,jump\nv/b.mp4,run\n", columns=("path", "label"))) == JUMPS
    assert pairs(read(root, "v/a.mp4,7,jump\nv/b.mp4,7,run\n", columns=("path", "-", "label"))) == JUMPS


def test_a_label_that_names_a_folder_is_no_path(root) -> None:
    (root / "jump").mkdir()
    found = read(root, "gone.mp4,jump\nlost.mp4,run\n")
    assert found.splits["train"] == [] and len(found.missing["train"]) == 2


def test_paths_with_the_slashes_of_windows(root) -> None:
    assert pairs(read(root, "path,label\nv\\a.mp4,jump\n.\\v\\b.mp4,run\n")) == JUMPS


def test_paths_beside_a_list_below_the_root(root) -> None:
    assert pairs(read(root, "file_name,label\na.mp4,jump\nb.mp4,run\n", "v/metadata.csv")) == JUMPS


def test_a_name_that_several_files_have_is_missing(root) -> None:
    (root / "w").mkdir()
    (root / "w" / "a.mp4").write_bytes(b"x")
    found = read(root, "id,label\na,jump\nb,run\nv/c,run\n")
    assert pairs(found) == [("v/b.mp4", "run"), ("v/c.mp4", "run")]
    assert found.missing["train"] == [f"{root}/list.csv, line 2: a (several files have this name; expected its path)"]


def test_names_with_line_breaks_blanks_commas_and_quotes(root) -> None:
    for name in ("l\nb.mp4", " blank .mp4", 'q"u,o;te.mp4'):
        (root / name).write_bytes(b"x")
    found = read(root, '"l\nb.mp4",x\n" blank .mp4",y\n"q""u,o;te.mp4",x\nv/a.mp4,y\n')
    assert [row.path for row in found.splits["train"]] == ["l\nb.mp4", " blank .mp4", 'q"u,o;te.mp4', "v/a.mp4"]
    assert found.classes == ["x", "y"]


@pytest.mark.parametrize("label", ["y", "class", "action", "video", "label"])
def test_a_class_may_have_the_name_of_a_column(root, label) -> None:
    assert pairs(read(root, f"v/a.mp4,{label}\nv/b.mp4,n\n")) == [("v/a.mp4", label), ("v/b.mp4", "n")]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("l.csv", "thing,label\nv/a.mp4,x\n", "no column of the header|looks like a header; expected a header with"),
        ("l.csv", "thing,what\nv/a.mp4,x\nv/b.mp4,y\n", "l.csv, line 1: 'thing,what' names no file and looks like a header"),
        ("l.txt", "things\nv/a.mp4\nv/b.mp4\n", "l.txt, line 1: 'things' names no file and looks like a header"),
        ("l.csv", "path,path,label\nv/a.mp4,v/a.mp4,x\n", "the header has path twice"),
        ("l.csv", "path,label,split\nv/a.mp4,x,0\n", "line 2: split '0'; expected train, validation or test"),
        ("l.csv", "path,label,split\nv/a.mp4,x,\n", "line 2: split ''; expected train, validation or test"),
        ("l.csv", "path,label\nv/a.mp4,x\nv/b.mp4\n", r"l.csv, line 3: 1 cells; expected 2 \(path,label\)"),
        ("l.csv", "path,label\nv/a.mp4,x,y\n", r"l.csv, line 2: 3 cells; expected 2 \(path,label\)"),
        ("l.csv", 'path,label\nv/a.mp4,"x\nv/b.mp4,y\n', "line 2: label goes over several lines"),
        ("l.csv", "path,label,class\nv/a.mp4,0,x\nv/b.mp4,0,y\n", "line 3: label '0' and class 'y' do not name the same"),
        ("l.csv", "path,action,category\nv/a.mp4,r,x\nv/b.mp4,s,x\n", "line 3: action 's' and category 'x' do not name"),
        ("l.csv", "path,actions\nv/a.mp4,c1 0 2;c3 1 4\nv/b.mp4,c2 0 1\n", "actions 'c1 0 2;c3 1 4' holds several labels"),
        ("l.csv", "label,youtube_id,time_start,time_end,split\nx,a,0,10,train\n", "datasets/kinetics400/prepare.py"),
        ("l.csv", "video_id,segments,verb\na,0-1,x\n", "segments cut parts of files by time"),
        ("l.csv", "video_id,start_ms,end_ms,label\na,0,1,x\n", "start_ms, end_ms cut parts.*expected start_s and stop_s"),
        ("l.csv", "path,start_s,stop_s\nv/a.mp4,3,2\n", "line 2: a piece from 3 to 2; expected an end after the start"),
        ("l.csv", "path,start_s,stop_s\nv/a.mp4,-1,2\n", "line 2: start '-1'; expected a whole number, or seconds as 62.5"),
        ("l.csv", "path,start_s,stop_s\nv/a.mp4,0,nan\n", "line 2: end 'nan'; expected a whole number, or seconds as"),
        ("l.csv", "path,start_s,start_time\nv/a.mp4,0,1\n", "start_s and start_time both name the start_s; expected one"),
        ("l.csv", "path,start_s,stop_s\nframes/x,0,1\n", "line 2: seconds of frames/x; expected a film, or the frames of"),
        ("l.csv", "path\n", "no lines after the header"),
        ("l.csv", "jump,v/a.mp4\nrun,v/b.mp4\n", "line 1: 'v/a.mp4' stands last.*expected the path first.*--columns label,path"),
        ("l.txt", "0 v/a.mp4\n1 v/b.mp4\n", "line 1: 'v/a.mp4' stands last.*expected the path first.*--columns label,path"),
        ("trainlist01.txt", "v/a.mp4 1\n", "datasets/ucf101/prepare.py"),
        ("jump_test_split1.txt", "a.mp4 1\n", "datasets/hmdb51/prepare.py"),
        ("ava.csv", "a,0902,0.077,0.151,0.283,0.811,80,1\n", "8 columns; expected 1 to 4, a header, or --columns"),
        ("moments.csv", "v/a.mp4,jump,4,0\n", "line 1: start 'jump'; expected a whole number"),
        ("train.json", '[{"id": "1", "label": "a", "template": "[b]", "placeholders": []}]', "datasets/ssv2/prepare.py"),
        ("l.json", '{"database": {"a": {"annotations": []}}}', "is JSON that holds a dict"),
        ("l.json", '[{"path": "v/a.mp4", "label": ["x"]}]', "row 1: label is .*; expected one value, not a list"),
        ("l.json", '[{"path": "v/a.mp4", "label": "x"}, {"path": "v/b.mp4"}]', "row 2: without 'label'"),
        ("l.json", '[{"path": ', "l.json, line 1: no valid JSON"),
        ("l.json", "[" * 5000, "no valid JSON"),
        ("l.json", '["v/a\\ud800.mp4"]', "holds text that is not UTF-8"),
        ("l.jsonl", '{"path": "v/a.mp4"}\n{"path": }\n', "l.jsonl, line 2: no valid JSON"),
        ("l.parquet", b"PAR1\x15\x04\x15\x00PAR1", "is a Parquet table, not a list.*Save it as csv"),
        ("l.xlsx", b"PK\x03\x04\x14\0\x06\0", "is an Excel workbook, not a list"),
        ("l.csv", b"PK\x03\x04\x14\0\x06\0", "is a zip archive, not a list"),
        ("l.pkl", b"\x80\x04\x95\x10\0\0\0", "is a pickle, not a list"),
        ("l.npy", b"\x93NUMPY\x01\0v\0", "is a NumPy array, not a list"),
        ("l.mp4", b"\0\0\0\x20ftypisom", "is a video, not a list"),
        ("l.csv", "\ufeffpath,label\n".encode("utf-16-le"), "is UTF-16 text, not a list.*Save it as UTF-8"),
        ("l.csv", "<!DOCTYPE html>\n<html>", "is a web page or XML, not a list"),
        ("l.csv", "version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a git-lfs pointer.*git lfs pull"),
        ("l.csv", b"path,label\nv/caf\xe9.mp4,x\n", r"l.csv: not UTF-8 \(byte 16\).*Save it as UTF-8"),
        ("l.csv", "path,label\nv/a.mp4,x\0\n", "holds a zero byte|is a binary file"),
        ("l.csv", "path,start,end,label\nv/a.mp4,0,99999999999,x\n", "end '99999999999'; expected a whole number"),
    ],
)  # fmt: skip
def test_what_is_refused(root, name, text, words) -> None:
    with pytest.raises(UserError, match=words):
        read(root, text, name)


@pytest.fixture()
def tree(tmp_path):
    for name in ("a b.mp4", "a,b.mp4", "c.mp4", "d.png", "f/img_9.jpg", "f/img_10.jpg", "f/img_11.JPG", "f/x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("c.mp4\na b.mp4", [Row("c.mp4"), Row("a b.mp4")]),
        ("a b.mp4 0\nc.mp4 1\n", [Row("a b.mp4", 0), Row("c.mp4", 1)]),
        ("a,b.mp4 0\nc.mp4 1\n", [Row("a,b.mp4", 0), Row("c.mp4", 1)]),
        ("a b.mp4,0\r\nc.mp4, 1\r\n", [Row("a b.mp4", 0), Row("c.mp4", 1)]),
        ('"a,b.mp4",0\nc.mp4,1', [Row("a,b.mp4", 0), Row("c.mp4", 1)]),
        ("a b.mp4\trun fast\nc.mp4\tjump", [Row("a b.mp4", 1), Row("c.mp4", 0)]),
        ("c.mp4 run\nd.png jump", [Row("c.mp4", 1), Row("d.png", 0, 1)]),
        ("\ufeffPath Label\n\nc.mp4 0", [Row("c.mp4", 0)]),
        ("id,video,frames,label,group\n1,c.mp4,30,0,k1", [Row("c.mp4", 0, 30, group="k1")]),
        ("c.mp4 0 -1\nf 10 -1", [Row("c.mp4"), Row("f", -1, 2, first_frame=1)]),
        ("f 2 0", [Row("f", 0, 2)]),
        ("f 10 11 0\nf 9 9 1", [Row("f", 0, 2, first_frame=1), Row("f", 1, 1)]),
        ("path offset total label\nf 1 1 0", [Row("f", 0, 1, first_frame=1)]),
    ],
)
def test_what_a_list_is_read_as(tree, text, rows) -> None:
    (tree / "list").write_bytes(text.encode())
    found = read_lists(tree, {"train": tree / "list"})
    assert found.splits["train"] == rows and not found.missing


def test_frames_that_are_not_there(tree) -> None:
    (tree / "list").write_text("f 10 12 0\nf 11 9 0\nf 9 9 0\n")
    (tree / "g").mkdir()
    found = read_lists(tree, {"train": tree / "list"})
    assert found.splits["train"] == [Row("f", 0, 1)] and len(found.missing["train"]) == 2
    (tree / "list").write_text("g 3 0\nf 4 0\nf 3 0")
    assert [text.split(" ", 3)[3] for text in read_lists(tree, {"train": tree / "list"}).missing["train"]] == [
        "g (holds no image)", "f (holds 3 images; expected those from 1 to 4)"
    ]  # fmt: skip


def test_classes_are_those_of_all_splits(tree) -> None:
    (tree / "one").write_text("c.mp4,b")
    (tree / "two").write_text("a b.mp4,a")
    found = read_lists(tree, {"train": tree / "one", "validation": tree / "two"})
    assert found.classes == ["a", "b"] and found.splits["validation"][0].label == 0


def test_unknown_columns_and_another_coding(tree) -> None:
    (tree / "list").write_bytes(b"caf\xe9.mp4 0")
    with pytest.raises(UserError, match="list: not UTF-8"):
        read_lists(tree, {"train": tree / "list"})
    with pytest.raises(UserError, match="columns path,lable; expected path and some of path,label"):
        read_lists(tree, {"train": tree / "list"}, ("path", "lable"))
