"""The recipes of sets that name pieces of films, on the columns and names of their public lists."""

import json
from pathlib import Path

from hpm_video.config import DataConfig
from hpm_video.data.source import open_source


def write(file: Path, *lines: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(line + "\n" for line in lines))


def rows(out: Path, split: str = "train", *more: str) -> list[tuple]:
    table = open_source(DataConfig(root=str(out)), split).table
    return list(zip(*(table[name].to_pylist() for name in ("path", "label", "start_s", "stop_s", *more)), strict=True))


CHARADES = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length"


def put_charades(root: Path, actions: str) -> None:
    write(root / "Charades_v1_480/46GP8.mp4", "x")
    write(root / "Charades_v1_480/N11GT.mp4", "x")
    write(root / "Charades/Charades_v1_classes.txt", "c000 Holding some clothes", "c092 Watching from a window")
    line = f'46GP8,HR43,Kitchen,6,7,Yes,"A person, cooking",food;stove,"One; two, three",{actions},24.83'
    write(root / "Charades/Charades_v1_train.csv", CHARADES, line, "GONE1,HR44,Hall,6,7,No,a,b,c,c000 0.00 4.00,9.00")
    write(root / "Charades/Charades_v1_test.csv", CHARADES, "N11GT,0KZ7,Stairs,7,,Yes,a,,c,c000 3.50 9.00,30.00", "")


def test_charades(recipe, tmp_path) -> None:
    put_charades(tmp_path, "c092 11.90 21.20;c000 0.00 12.60;c000 25.00 31.00;c000 4.00 4.00")
    status, said, fault = recipe("charades", tmp_path)
    assert status == 0, fault
    film = "Charades_v1_480/46GP8.mp4"
    assert rows(tmp_path / "manifest", "train", "group") == [
        (film, 1, 11.9, 21.2, "HR43"),
        (film, 0, 0.0, 12.6, "HR43"),
    ]
    assert rows(tmp_path / "manifest", "validation") == [("Charades_v1_480/N11GT.mp4", 0, 3.5, 9.0)]
    assert "train: 1 of 3 rows have no file" in said and "2 intervals are empty or begin after the end" in said
    assert "2 classes; expected 157" in said
    put_charades(tmp_path, "c500 1.00 2.00")
    assert "Charades_v1_train.csv, line 2: 'c500 1.00 2.00'; expected a class" in recipe("charades", tmp_path)[2]
    write(tmp_path / "Charades/Charades_v1_test.csv", "id,actions")
    put = tmp_path / "Charades/Charades_v1_train.csv"
    write(put, CHARADES, "46GP8,HR43")
    assert f"{put}, line 2: 2 cells; expected 11" in recipe("charades", tmp_path)[2]


def test_ava(recipe, tmp_path) -> None:
    write(tmp_path / "trainval/-5KQ66BBWC4.mkv", "x")
    write(tmp_path / "trainval/1j20qq1JyX4.mp4", "x")
    lines = [f"-5KQ66BBWC4,{time:04d},0.077,0.151,0.283,0.811,80,1" for time in (902, 903, 903, 1798)]
    write(tmp_path / "annotations/ava_train_v2.2.csv", *lines)
    write(tmp_path / "annotations/ava_val_v2.2.csv", "1j20qq1JyX4,0905,0.1,0.1,0.2,0.2,12,0", "gone,0902,0,0,1,1,12,0")
    assert recipe("ava", tmp_path)[0] == 0
    assert rows(tmp_path / "manifest") == [("trainval/-5KQ66BBWC4.mkv", -1, 901.5, 1798.5)]
    assert recipe("ava", tmp_path, "--cut-s", 900)[0] == 0
    assert rows(tmp_path / "manifest", "validation") == [("trainval/1j20qq1JyX4.mp4", -1, 4.5, 5.5)]
    assert "line 1: second 902 of a film; expected --cut-s of less" in recipe("ava", tmp_path, "--cut-s", 903)[2]


EPIC = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,"
    "narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"
)


def test_epic_kitchens(recipe, tmp_path) -> None:
    lists = tmp_path / "epic-kitchens-100-annotations"
    for name in ("P01_01", "P01_02", "P02_01"):
        write(tmp_path / name[:3] / "videos" / f"{name}.MP4", "x")
    line = "P01_01_0,P01,P01_01,00:00:01.089,00:01:00.14,01:00:03.37,8,202,\"open, door\",open,1,door,0,\"['door', 'a']\",[0]"
    write(lists / "EPIC_100_train.csv", EPIC, line)
    write(lists / "EPIC_100_validation.csv", EPIC, line.replace("P01_01", "P01_02").replace("open,1", "take,0"))
    write(
        lists / "EPIC_100_verb_classes.csv",
        "id,key,instances,category",
        "0,take,\"['take', 'grab']\",retrieve",
        "1,open,[],access",
    )
    write(lists / "EPIC_100_noun_classes.csv", "id,key,instances,category", "0,door,['door'],furniture")
    test = (
        "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame"
    )
    write(lists / "EPIC_100_test_timestamps.csv", test, "P02_01_0,P02,P02_01,00:00:01,00:00:00.5,00:00:02.25,30,135")
    status, said, fault = recipe("epic_kitchens100", tmp_path)
    assert status == 0, fault
    out = tmp_path / "manifest"
    assert rows(out, "train", "group") == [("P01/videos/P01_01.MP4", 1, 60.14, 3603.37, "P01")]
    assert rows(out, "validation")[0][1] == 0 and rows(out, "test") == [("P02/videos/P02_01.MP4", -1, 0.5, 2.25)]
    assert (
        open_source(DataConfig(root=str(out)), "train").classes == ["take", "open"] and "2 classes; expected 97" in said
    )
    assert recipe("epic_kitchens100", tmp_path, "--label", "noun")[0] == 0 and rows(out)[0][1] == 0
    write(lists / "EPIC_100_train.csv", EPIC, line.replace("open,1", "open,7"))
    assert "EPIC_100_train.csv, line 2: verb_class '7'; expected 0 to 1" in recipe("epic_kitchens100", tmp_path)[2]


def test_diving48(recipe, tmp_path) -> None:
    for name in ("-mmq0PT-u8k_00155", "_8Vy3dlHg2w_00000"):
        write(tmp_path / "rgb" / f"{name}.mp4", "x")
    dives = [{"vid_name": "_8Vy3dlHg2w_00000", "label": 1, "start_frame": 0, "end_frame": 48}]
    write(
        tmp_path / "Diving48_vocab.json",
        json.dumps([["Back", "15som", "05Twis", "FREE"], ["Inward", "15som", "NoTwis", "PIKE"]]),
    )
    write(tmp_path / "Diving48_V2_train.json", json.dumps(dives))
    write(tmp_path / "Diving48_V2_test.json", json.dumps([dives[0] | {"vid_name": "-mmq0PT-u8k_00155", "label": 0}]))
    assert recipe("diving48", tmp_path)[0] == 0
    out = tmp_path / "manifest"
    assert rows(out) == [("rgb/_8Vy3dlHg2w_00000.mp4", 1, None, None)] and rows(out, "validation")[0][1] == 0
    assert open_source(DataConfig(root=str(out)), "train").classes[1] == "Inward 15som NoTwis PIKE"
    write(tmp_path / "Diving48_V2_train.json", json.dumps([dives[0] | {"label": 2}]))
    assert "Diving48_V2_train.json, row 1" in recipe("diving48", tmp_path)[2]
