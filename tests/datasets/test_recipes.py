"""Each recipe on a small tree laid out as the real set is; what it writes is opened as training opens it.

Once for each recipe as its own command; the rest in this process, as a command spends two seconds on imports.
"""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hpm_video.config import DataConfig
from hpm_video.data.source import open_source

RECIPES = Path(__file__).parents[2] / "datasets"
UCF_LISTS = "ucfTrainTestlist"
HMDB_LISTS = "testTrainMulti_7030_splits"


def run_command(name: str, *words: object) -> str:
    done = subprocess.run(
        [sys.executable, RECIPES / name / "prepare.py", *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def write(file: Path, *lines: str, end: str = "\n") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes("".join(line + end for line in lines).encode())


def opened(out: Path, split: str = "train"):
    return open_source(DataConfig(root=str(out)), split)


def rows(out: Path, *columns: str, split: str = "train") -> list[tuple]:
    """Of each row the path and these columns, and its file is there."""
    manifest = opened(out, split)
    assert all((manifest.root / path).exists() for path in manifest.paths)
    return list(zip(manifest.paths, *(manifest.table[c].to_pylist() for c in columns), strict=True))


@pytest.fixture()
def ssv2(tmp_path):
    root = tmp_path / "SS v2"
    touch(root, *(f"20bn-something-something-v2/{n}.webm" for n in (1, 2, 4, 5, 6)))
    labels = {"Approaching something with your camera": "0", "Pushing something from left to right": "1"}
    templates = ["Approaching [something] with your camera", "Pushing [something] from left to right"]
    entries = [{"id": str(n), "label": "a", "template": templates[n % 2], "placeholders": ["é"]} for n in range(1, 6)]
    for name, content in (
        ("labels", labels),
        ("train", entries[:4]),
        ("validation", entries[4:]),
        ("test", [{"id": "6"}]),
    ):
        write(root / "labels" / f"{name}.json", json.dumps(content))
    return root


def test_ssv2(ssv2) -> None:
    said = run_command("ssv2", ssv2)
    out = ssv2 / "manifest"
    assert opened(out).labels == [1, 0, 0] and opened(out).left_right
    assert opened(out).classes[1] == "Pushing something from left to right"
    assert rows(out, "label", split="validation") == [("20bn-something-something-v2/5.webm", 1)]
    assert rows(out, "label", split="test") == [("20bn-something-something-v2/6.webm", -1)]
    assert "train: 3 rows; expected 168,913 (-168,910)" in said and "train: 1 of 4 rows have no file" in said
    assert "row 3 (id 3)" in (out / "missing_train.txt").read_text() and not (out / "missing_test.txt").exists()
    assert f"hpm-video pretrain --recipe ssv2_vitb data.root='{out}'" in said  # quoted: there is a blank in it
    assert (out / "classes.txt").read_text().splitlines() == opened(out).classes
    assert json.loads((out / "manifest.json").read_text())["root"] == ".."


def kinetics_line(label: str, name: str, split: str) -> str:
    return f'"{label}",{name},10,20,{split},0' if " " in label else f"{label},{name},10,20,{split},0"


@pytest.fixture()
def k400(tmp_path):
    head = "label,youtube_id,time_start,time_end,split,is_cc"
    train = [
        ("zumba", "-aaaaaaaaa0"),
        ("abseiling", "_bbbbbbbbb1"),
        ("tying tie", "ccccccccc-2"),
        ("zumba", "ddddddddd_3"),
    ]
    write(tmp_path / "annotations/train.csv", head, *(kinetics_line(*t, "train") for t in train))
    write(tmp_path / "annotations/val.csv", head, kinetics_line("tying tie", "eeeeeeeeee4", "validate"))
    write(tmp_path / "annotations/test.csv", "youtube_id,time_start,time_end,split", "fffffffffff,0,10,test")
    touch(tmp_path, "train/-aaaaaaaaa0_000010_000020.mp4", "train/tying tie/ccccccccc-2_000010_000020.mp4")
    touch(tmp_path, "train/_bbbbbbbbb1_000010_000020.mp4", "test/fffffffffff_000000_000010.mp4")
    touch(tmp_path, "val/eeeeeeeeee4_000010_000020.mp4", "replacement/replacement_for_corrupted_k400/_bbbbbbbbb1.mp4")
    return tmp_path


def test_kinetics_from_csv(k400) -> None:
    said = run_command("kinetics400", k400, "--out", k400 / "out")
    assert rows(k400 / "out", "label") == [
        ("train/-aaaaaaaaa0_000010_000020.mp4", 2),
        ("replacement/replacement_for_corrupted_k400/_bbbbbbbbb1.mp4", 0),
        ("train/tying tie/ccccccccc-2_000010_000020.mp4", 1),
    ]
    assert opened(k400 / "out").classes == ["abseiling", "tying tie", "zumba"] and not opened(k400 / "out").left_right
    assert opened(k400 / "out", "validation").labels == [1] and opened(k400 / "out", "test").labels == [-1]
    assert "train.csv, line 5: ddddddddd_3_000010_000020.mp4" in (k400 / "out/missing_train.txt").read_text()
    assert "3 classes; expected 400" in said and "about 246,000 / 20,000 / 40,000" in said
    assert f"hpm-video pretrain --recipe k400_vitb data.root={k400}/out" in said


def test_kinetics_from_folders(recipe, tmp_path) -> None:
    touch(tmp_path, "train/petting_animal_(not_cat)/a b.mp4", "train/zumba/ü.mkv", "val/petting animal (not cat)/c.mp4")
    touch(tmp_path, "test/d.mp4")
    status, said, _ = recipe("kinetics400", tmp_path, "--version", 600)
    assert status == 0 and "2 classes; expected 600" in said and "clips vanish" in said and "246,000" not in said
    assert opened(tmp_path / "manifest").classes == ["petting animal (not cat)", "zumba"]
    assert rows(tmp_path / "manifest", "label")[1] == ("train/zumba/ü.mkv", 1)
    assert opened(tmp_path / "manifest", "validation").labels == [0] and opened(
        tmp_path / "manifest", "test"
    ).labels == [-1]


def test_kinetics_video_beside_the_class_folders(recipe, tmp_path) -> None:
    touch(tmp_path, "train/zumba/a.mp4", "train/b.mp4")
    assert "train/b.mp4 lies beside class folders" in recipe("kinetics400", tmp_path)[2]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("zumba,x,10,20", "train.csv, line 6: 4 cells; expected 6"),
        ("zumba,x,ten,20,train,0", "train.csv, line 6: time 'ten' to '20'; expected seconds"),
        ("zumba,x,10,inf,train,0", "train.csv, line 6: time '10' to 'inf'; expected seconds"),
    ],
)
def test_kinetics_bad_row(recipe, k400, line, words) -> None:
    with (k400 / "annotations/train.csv").open("a") as file:
        file.write(line + "\n")
    status, _, fault = recipe("kinetics400", k400)
    assert status == 1 and words in fault and not (k400 / "manifest").exists()


def test_name_of_several_files_is_named(recipe, k400) -> None:
    touch(k400, "old copies/-aaaaaaaaa0_000010_000020.mkv", "old copies/x.mp4", "train/x.mkv")
    status, said, _ = recipe("kinetics400", k400)
    assert status == 0 and rows(k400 / "manifest")[0] == ("old copies/-aaaaaaaaa0_000010_000020.mkv",)
    assert (
        "several files have the same name (names: 1; the first file is used: "
        "old copies/-aaaaaaaaa0_000010_000020.mkv, not train/-aaaaaaaaa0_000010_000020.mp4)"
    ) in said


@pytest.fixture()
def ucf101(tmp_path):
    write(tmp_path / UCF_LISTS / "classInd.txt", "1 ApplyEyeMakeup", "2 HandstandPushups", "", end="\r\n")
    names = ["ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", "HandstandPushups/v_HandStandPushups_g09_c01.avi"]
    test = ["ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi", "HandstandPushups/v_HandStandPushups_g01_c04.avi"]
    for split in (1, 2):
        write(
            tmp_path / UCF_LISTS / f"trainlist0{split}.txt", *(f"{n} {k}" for k, n in enumerate(names, 1)), end="\r\n"
        )
        write(tmp_path / UCF_LISTS / f"testlist0{split}.txt", *test[split - 1 :], end="\r\n")
    touch(tmp_path / "UCF-101", *names, *test)
    return tmp_path


def test_ucf101(ucf101) -> None:
    said = run_command("ucf101", ucf101)
    out = ucf101 / "manifest"
    assert rows(out, "label", "group") == [
        ("UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", 0, "ApplyEyeMakeup_g08"),
        ("UCF-101/HandstandPushups/v_HandStandPushups_g09_c01.avi", 1, "HandstandPushups_g09"),
    ]
    assert opened(out, "validation").labels == [0, 1] and opened(out).classes == ["ApplyEyeMakeup", "HandstandPushups"]
    assert "train: 2 rows; expected 9,537" in said and "validation: 2 rows; expected 3,783" in said


def test_ucf101_flat_second_split_and_another_ending(recipe, ucf101) -> None:
    for file in list(ucf101.rglob("*.avi")):
        file.rename(ucf101 / f"{file.stem}.mp4")
    status, said, _ = recipe("ucf101", ucf101, "--split", 2, "--out", ucf101 / "two")
    assert status == 0 and "validation: 1 rows; expected 3,734" in said
    assert rows(ucf101 / "two")[0] == ("v_ApplyEyeMakeup_g08_c01.mp4",)


def test_ucf101_says_what_is_in_both_parts(recipe, ucf101) -> None:
    with (ucf101 / UCF_LISTS / "testlist01.txt").open("a") as file:
        file.write("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi\n" * 2)
    said = recipe("ucf101", ucf101)[1]
    assert "1 samples are in train and in validation: UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi" in said
    assert "1 groups are in train and in validation: ApplyEyeMakeup_g08" in said
    assert "validation: 1 rows name a sample again" in said


@pytest.mark.parametrize(
    ("file", "line", "words"),
    [
        ("trainlist01.txt", "v_A_g01_c01.avi 1", "trainlist01.txt, line 3: 'v_A_g01_c01.avi 1'; expected 'Class/v_"),
        ("trainlist01.txt", "ApplyEyeMakeup/v_A_g01_c01.avi 2", "trainlist01.txt, line 3: 'ApplyEyeMakeup/v_A"),
        (
            "testlist01.txt",
            "Eating/v_Eating_g01_c01.avi",
            "testlist01.txt, line 3: 'Eating/v_Eating_g01_c01.avi'; expected",
        ),
        ("classInd.txt", "4 YoYo", "classInd.txt, line 4: '4 YoYo'; expected '3 NAME'"),
    ],
)
def test_ucf101_bad_row(recipe, ucf101, file, line, words) -> None:
    with (ucf101 / UCF_LISTS / file).open("a") as stream:
        stream.write(line + "\n")
    status, _, fault = recipe("ucf101", ucf101)
    assert status == 1 and words in fault


@pytest.fixture()
def hmdb51(tmp_path):
    names = [
        "#122_Cleaning_Up!_brush_hair_u_nm_np1_ba_goo_0",
        "April_09_brush_hair_u_nm_np1_ba_goo_1",
        "b_brush_hair_2",
    ]
    lines = [f"{name}.avi {mark} " for name, mark in zip(names, (1, 2, 0), strict=True)]  # a blank at the end, as there
    write(tmp_path / HMDB_LISTS / "brush_hair_test_split1.txt", *lines)
    write(tmp_path / HMDB_LISTS / "wave_test_split1.txt", "a_wave_0.avi 1 ", "gone_wave_0.avi 1 ")
    touch(tmp_path / "hmdb51_org", *(f"brush_hair/{name}.avi" for name in names), "wave/a_wave_0.avi")
    return tmp_path


def test_hmdb51(hmdb51) -> None:
    said = run_command("hmdb51", hmdb51)
    out = hmdb51 / "manifest"
    assert rows(out, "label") == [
        ("hmdb51_org/brush_hair/#122_Cleaning_Up!_brush_hair_u_nm_np1_ba_goo_0.avi", 0),
        ("hmdb51_org/wave/a_wave_0.avi", 1),
    ]
    assert opened(out).classes == ["brush_hair", "wave"] and opened(out, "validation").labels == [0]
    assert (
        "train: 2 rows; expected 3,570 (-3,568)" in said
        and "wave_test_split1.txt, line 2: wave/gone_wave_0.avi" in said
    )


def test_hmdb51_bad_row(recipe, hmdb51) -> None:
    write(hmdb51 / HMDB_LISTS / "wave_test_split1.txt", "a_wave_0.avi 1", "b_wave_0.avi 3")
    assert "wave_test_split1.txt, line 2: 'b_wave_0.avi 3'; expected" in recipe("hmdb51", hmdb51)[2]
    assert "*_test_split2.txt is not in" in recipe("hmdb51", hmdb51, "--split", 2)[2]


@pytest.fixture()
def in1k(tmp_path):
    """Flat val/; the classes of the development kit are numbered in another order than the synsets'."""
    touch(tmp_path, "train/n01440764/n01440764_10026.JPEG", "train/n01443537/n01443537_2.JPEG", "test/t_1.JPEG")
    touch(tmp_path, *(f"val/ILSVRC2012_val_0000000{n}.JPEG" for n in (1, 2)))
    return tmp_path


def test_imagenet_of_kaggle(in1k) -> None:
    (in1k / "ILSVRC/Data/CLS-LOC").mkdir(parents=True)
    for name in ("train", "val", "test"):
        (in1k / name).rename(in1k / "ILSVRC/Data/CLS-LOC" / name)
    solution = [
        f"ILSVRC2012_val_0000000{n},{s} 85 1 499 272 "
        for n, s in ((2, "n01443537"), (1, "n01440764"), (3, "n01440764"))
    ]
    write(in1k / "LOC_val_solution.csv", "ImageId,PredictionString", *solution)
    write(in1k / "LOC_synset_mapping.txt", "n01440764 tench, Tinca tinca", "n01443537 goldfish, Carassius auratus")
    said = run_command("imagenet1k", in1k)
    out, folder = in1k / "manifest", "ILSVRC/Data/CLS-LOC"
    assert rows(out, "label", "frames")[1] == (f"{folder}/train/n01443537/n01443537_2.JPEG", 1, 1)
    assert rows(out, "label", split="validation")[0] == (f"{folder}/val/ILSVRC2012_val_00000002.JPEG", 1)
    assert opened(out, "test").labels == [-1] and opened(out).classes == ["n01440764 tench", "n01443537 goldfish"]
    assert "train: 2 rows; expected 1,281,167" in said and "validation: 1 of 3 rows have no file" in said
    assert "2 classes; expected 1000" in said


def test_imagenet_with_the_development_kit(recipe, in1k) -> None:
    from scipy.io import savemat

    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")]
    synsets = np.array([[(1, "n01443537", 0)], [(2, "n01440764", 0)], [(1001, "n00001740", 2)]], dtype=kinds)
    kit = in1k / "ILSVRC2012_devkit_t12/data"
    write(kit / "ILSVRC2012_validation_ground_truth.txt", "2", "1")
    savemat(kit / "meta.mat", {"synsets": synsets})
    status, _, fault = recipe("imagenet1k", in1k)
    assert status == 0, fault
    assert opened(in1k / "manifest", "validation").labels == [0, 1]
    write(kit / "ILSVRC2012_validation_ground_truth.txt", "2", "1001")
    assert "ground_truth.txt, line 2: '1001'; expected a class number" in recipe("imagenet1k", in1k)[2]


def test_imagenet_val_in_folders_and_flat_without_answers(recipe, in1k) -> None:
    assert "lie flat, and neither LOC_val_solution.csv nor" in recipe("imagenet1k", in1k)[2]
    for number, synset in ((1, "n01443537"), (2, "n01440764")):
        (in1k / "val" / synset).mkdir()
        name = f"ILSVRC2012_val_0000000{number}.JPEG"
        (in1k / "val" / name).rename(in1k / "val" / synset / name)
    assert recipe("imagenet1k", in1k)[0] == 0
    assert opened(in1k / "manifest", "validation").labels == [0, 1]  # sorted by path
    (in1k / "val/n01443537").rename(in1k / "val/n09999999")
    assert "class 'n09999999'; expected one of 2: n01440764" in recipe("imagenet1k", in1k)[2]


def test_folder_with_classes(tmp_path) -> None:
    touch(tmp_path, *(f"{k} x/v_g{g}_{n}.mp4" for k in ("ä", "b") for g in range(5) for n in range(4)))
    said = run_command("folder", tmp_path, "--validation-share", 0.2, "--group", r"_g\d")
    train, held = (rows(tmp_path / "manifest", "label", "group", split=s) for s in ("train", "validation"))
    assert len(train) == 32 and len(held) == 8 and not {g for *_, g in train} & {g for *_, g in held}
    assert {label for _, label, _ in train} == {0, 1} and opened(tmp_path / "manifest").classes == ["b x", "ä x"]
    assert "train: 32 rows\nvalidation: 8 rows\n2 classes" in said


def test_folder_splits_and_no_labels(recipe, tmp_path) -> None:
    touch(tmp_path, "train/a.mp4", "train/b.mp4", "val/c.mp4")
    status, said, _ = recipe("folder", tmp_path)
    assert status == 0 and "no labels" in said and opened(tmp_path / "manifest").classes == []
    assert rows(tmp_path / "manifest", "label", split="validation") == [("val/c.mp4", -1)]
    assert "no validation folder beside train/" in recipe("folder", tmp_path, "--validation-share", 0.5)[2]
    touch(tmp_path, "val/x/d.mp4")
    assert "val/c.mp4 lies beside class folders" in recipe("folder", tmp_path)[2]
    assert recipe("folder", tmp_path, "--unlabelled")[0] == 0


def test_folder_of_images(recipe, tmp_path) -> None:
    touch(tmp_path, "train/cat/1.PNG", "train/dog/2.jpg", "val/dog/3.jpg", "train/notes.txt")
    assert recipe("folder", tmp_path, "--images")[0] == 0
    assert rows(tmp_path / "manifest", "label", "frames") == [("train/cat/1.PNG", 0, 1), ("train/dog/2.jpg", 1, 1)]
    assert opened(tmp_path / "manifest", "validation").labels == [1]
    touch(tmp_path, "val/emu/4.jpg")
    assert "train: no sample of class 2" in recipe("folder", tmp_path, "--images")[2]


def write_idx(file: Path, values: np.ndarray) -> None:
    head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    file.write_bytes(gzip.compress(head + values.tobytes()))


def test_fashion_mnist(recipe, tmp_path) -> None:
    from hpm_video.data.readers.images import read_image

    pictures = np.random.default_rng(0).integers(0, 256, (23, 28, 28), dtype=np.uint8)
    for name, part in (("train", slice(0, 12)), ("t10k", slice(12, 23))):
        write_idx(tmp_path / f"{name}-images-idx3-ubyte.gz", pictures[part])
        write_idx(tmp_path / f"{name}-labels-idx1-ubyte.gz", (np.arange(23)[part] % 10).astype(np.uint8))
    status, said, fault = recipe("fashion_mnist", tmp_path, tmp_path / "out")
    assert status == 0, fault
    assert "train: 12 rows; expected 60,000" in said and len(opened(tmp_path / "out").classes) == 10
    held = rows(tmp_path / "out", "label", "frames", split="validation")
    assert held[0] == ("val/0_t-shirt/00008.png", 0, 1) and sorted(k for _, k, _ in held) == sorted(
        n % 10 for n in range(12, 23)
    )
    assert np.array_equal(read_image(str(tmp_path / "out" / held[0][0])), np.repeat(pictures[20, ..., None], 3, 2))
    whole = (file := tmp_path / "t10k-labels-idx1-ubyte.gz").read_bytes()
    for content, words in (
        (whole[:-9], "expected a whole .gz file"),
        (gzip.compress(bytes(9)), "expected MNIST's format"),
    ):
        file.write_bytes(content)
        status, _, fault = recipe("fashion_mnist", tmp_path, tmp_path / "other")
        assert status == 1 and str(file) in fault and words in fault
        assert (tmp_path / "other" / "train").is_dir() and not (tmp_path / "other" / "val").exists()
    assert "does not exist; expected the four" in recipe("fashion_mnist", tmp_path / "out", tmp_path / "third")[2]


def test_csv_of_videomae(tmp_path) -> None:
    touch(tmp_path, "vidéo 1.mp4", "b/2.mp4", "c.mp4")
    write(tmp_path / "train.csv", "vidéo 1.mp4 0", f"{tmp_path}/b/2.mp4 1", "gone.mp4 1")
    write(tmp_path / "val.csv", "./c.mp4 1")
    said = run_command("csv", tmp_path)
    assert rows(tmp_path / "manifest", "label") == [("vidéo 1.mp4", 0), ("b/2.mp4", 1)]
    assert rows(tmp_path / "manifest", "label", split="validation") == [("c.mp4", 1)]
    assert f"{tmp_path}/train.csv, line 3: gone.mp4" in said and "train: 1 of 3 rows have no file" in said
    assert opened(tmp_path / "manifest").classes == ["0", "1"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            ["a.mp4 0", "b.mp4 3"],
            "train.csv, line 2: label 3, but no line has label 1, 2; expected class numbers from 0",
        ),
        (["a.mp4 1", "b.mp4 1"], "train.csv, line 1: label 1, but no line has label 0"),
        (["a.mp4,0", "b.mp4"], "train.csv, line 2: 1 cells; expected 2 (path,label)"),
        (["a.mp4,0", "b.mp4,one"], "train.csv, line 2: label 'one'; expected a number"),
        (["a.mp4 0", "b.mp4 -2"], "train.csv, line 2: label '-2'; expected 0 to 0"),
        (["path,start,end", "a.mp4,1,x"], "train.csv, line 2: end 'x'; expected a whole number"),
        (["a.mp4 3 9 0"], "train.csv, line 1: a part of the file a.mp4; expected a folder"),
        (["a,1,2,3,4"], "train.csv, line 1: 5 columns; expected 1 to 4, a header, or --columns"),
        (["gone.mp4 0", "so.mp4 1"], "none of 2 rows has a file"),
        ([], "train.csv: no lines"),
    ],
)
def test_csv_bad_row(recipe, tmp_path, lines, words) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    write(tmp_path / "train.csv", *lines)
    status, _, fault = recipe("csv", tmp_path)
    assert status == 1 and words in fault and not (tmp_path / "manifest").exists()


def test_csv_with_names_of_classes(recipe, tmp_path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    write(tmp_path / "names.txt", "run", "jump")
    write(tmp_path / "list.tsv", "video\tid\tclass", "a.mp4\t7\tjump", "b.mp4\t8\trun")
    words = ("csv", tmp_path, "--train", tmp_path / "list.tsv")
    assert recipe(*words)[0] == 0 and opened(tmp_path / "manifest").labels == [0, 1]  # sorted names
    touch(tmp_path, "c.mp4")
    write(tmp_path / "more.csv", "a.mp4,jump", "c.mp4,swim")
    assert "train: no sample of class 2" in recipe(*words, "--validation", tmp_path / "more.csv")[2]
    words = (*words, "--classes", tmp_path / "names.txt")
    assert recipe(*words)[0] == 0 and opened(tmp_path / "manifest").labels == [1, 0]
    write(tmp_path / "list.tsv", "a.mp4\t2")
    assert "list.tsv, line 1: label '2'; expected 0 to 1, or a class of run, jump" in recipe(*words)[2]


def test_csv_of_frame_folders(recipe, tmp_path) -> None:
    touch(tmp_path, *(f"a/{n}.jpg" for n in range(3, 13)), *(f"b c/img_0000{n}.jpg" for n in range(1, 6)))
    write(tmp_path / "train.csv", "a 4 8 0", "a 9 12 1", "b c 1 5 1", "b c 1 6 1")
    status, said, _ = recipe("csv", tmp_path)
    assert status == 0 and "train.csv, line 4: b c (0 images have number 6; expected one)" in said
    assert rows(tmp_path / "manifest", "first_frame", "frames") == [("a", 1, 5), ("a", 6, 4), ("b c", 0, 5)]
    write(tmp_path / "train.csv", "a 10 0", "b c 5 1", "b c 6 1")  # mmaction2: how many, label
    assert "holds 5 images; expected those from 1 to 6" in recipe("csv", tmp_path)[1]
    assert rows(tmp_path / "manifest", "first_frame", "frames", "label") == [("a", 0, 10, 0), ("b c", 0, 5, 1)]
    write(tmp_path / "train.csv", "a 5 3", "b c 2 4")  # VideoMAE V2: start, how many
    assert recipe("csv", tmp_path, "--columns", "path,start,total")[0] == 0
    assert rows(tmp_path / "manifest", "first_frame", "frames", "label") == [("a", 2, 3, -1), ("b c", 1, 4, -1)]


def test_csv_of_videomae_v2s_pretraining(recipe, tmp_path) -> None:
    touch(tmp_path, "a.mp4", "f/1.jpg", "f/2.jpg")
    write(tmp_path / "train.csv", "a.mp4 0 -1", "f 2 -1")
    assert recipe("csv", tmp_path)[0] == 0
    assert rows(tmp_path / "manifest", "label", "frames", "first_frame") == [("a.mp4", -1, None, 0), ("f", -1, 1, 1)]


def test_csv_of_the_frames_demo(recipe, tmp_path, shared_data) -> None:
    demo = shared_data("frames_demo")
    status, _, fault = recipe("csv", demo, "--train", demo / "annotations.txt", "--out", tmp_path / "out")
    assert status == 0, fault
    assert [row[1:] for row in rows(tmp_path / "out", "label", "frames", "first_frame")] == [
        (0, 17, 0), (0, 18, 0), (1, 15, 0), (1, 15, 0)
    ]  # fmt: skip


def test_root_that_cannot_be_written(recipe, tmp_path, monkeypatch) -> None:
    touch(tmp_path / "data", "a.mp4")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and may(path, mode))
    status, said, _ = recipe("folder", tmp_path / "data")
    assert status == 0 and "data.root=manifests/folder" in said and not (tmp_path / "data/manifest").exists()
    assert rows(Path("manifests/folder")) == [("a.mp4",)]
    assert json.loads(Path("manifests/folder/manifest.json").read_text())["root"] == "../../../data"


def test_root_that_is_none_and_out_that_is_a_file(recipe, tmp_path) -> None:
    assert "nowhere is not a folder" in recipe("ucf101", tmp_path / "nowhere")[2]
    touch(tmp_path, "a.mp4", "out")
    status, _, fault = recipe("folder", tmp_path, "--out", tmp_path / "out")
    assert status == 1 and "out is a file; expected a folder" in fault
