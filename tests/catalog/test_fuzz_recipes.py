"""Damaged annotation files of known data sets give rows or a UserError, never another exception."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpm_video.catalog.hmdb51 import read_hmdb51
from hpm_video.catalog.imagenet import read_imagenet
from hpm_video.catalog.kinetics import read_kinetics
from hpm_video.catalog.lerobot import read_lerobot
from hpm_video.catalog.rows import Found
from hpm_video.catalog.segments import read_ava, read_charades, read_diving48, read_epic_kitchens
from hpm_video.catalog.ucf101 import read_ucf101
from hpm_video.types import UserError

BOUNDED = settings(
    derandomize=True, max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
WORDS = [
    "",
    "inf",
    "nan",
    "-1",
    "1e999",
    "9" * 30,
    "null",
    "[]",
    "{}",
    "[1]",
    '"',
    "é",
    "\0",
    "\r",
    "../a",
    "x" * 140_000,
]
WORDS += ["0:9999999999999", "{0.__class__}", "{episode_index:999999999}", "true", "a", "1", "\\ud800", "\n"]


class Set(NamedTuple):
    """A data set: how it is read, its videos, its annotation files."""

    read: Callable[[Path], Found]
    media: tuple[str, ...]
    texts: dict[str, str]


INFO = {
    "fps": 30,
    "chunks_size": 1000,
    "splits": {"train": "0:1", "val": "1:2"},
    "video_path": "videos/{video_key}/file-{file_index:03d}.mp4",
    "features": {"cam": {"dtype": "video"}, "state": {"dtype": "float32"}},
}
EPISODES = [
    {"episode_index": n, "tasks": [f"t{n}"]}
    | {f"videos/cam/{k}": n for k in ("chunk_index", "file_index", "from_timestamp")}
    | {"videos/cam/to_timestamp": n + 2.5}
    for n in range(2)
]
SETS = {
    "kinetics": Set(
        lambda root: read_kinetics(root, None),
        ("train/b/a_000010_000020.mp4", "val/b/c.mp4"),
        {
            "train.csv": "label,youtube_id,time_start,time_end\nb,a,10,20\n",
            "val.csv": "label,youtube_id,time_start,time_end\nb,c,1,2\n",
        },
    ),
    "ucf101": Set(
        lambda root: read_ucf101(root, None, 1),
        ("A/v_A_g01_c01.avi", "A/v_A_g02_c01.avi"),
        {
            "classInd.txt": "1 A\n2 B\n",
            "trainlist01.txt": "A/v_A_g01_c01.avi 1\n",
            "testlist01.txt": "A/v_A_g02_c01.avi\n",
        },
    ),
    "hmdb51": Set(
        lambda root: read_hmdb51(root, None, 1), ("a/x.avi", "a/y.avi"), {"a_test_split1.txt": "x.avi 1\ny.avi 2\n"}
    ),
    "imagenet": Set(
        read_imagenet,
        ("train/n00000001/a.JPEG", "val/ILSVRC2012_val_00000001.JPEG"),
        {
            "LOC_val_solution.csv": "ImageId,PredictionString\nILSVRC2012_val_00000001,n00000001 1 2 3 4\n",
            "LOC_synset_mapping.txt": "n00000001 tench, Tinca tinca\n",
        },
    ),
    "imagenet devkit": Set(
        read_imagenet,
        ("train/n00000001/a.JPEG", "val/ILSVRC2012_val_00000001.JPEG"),
        {
            "devkit/data/ILSVRC2012_validation_ground_truth.txt": "1\n",
            "devkit/data/meta.mat": "MATLAB 5.0 MAT-file, Platform: posix"
            + " " * 80
            + "\0\1IM"
            + "\x0f\0\0\0\x08\0\0\0abcdefgh",
        },
    ),
    "charades": Set(
        lambda root: read_charades(root, None),
        ("A.mp4", "B.mp4"),
        {
            "Charades_v1_classes.txt": "c000 Hold it\n",
            "Charades_v1_train.csv": "id,subject,actions,length\nA,S,c000 0.5 4.5;c000 1 2,9.5\n",
            "Charades_v1_test.csv": "id,subject,actions,length\nB,S,,3\n",
        },
    ),
    "ava": Set(
        lambda root: read_ava(root, None, 2.0),
        ("A.mp4",),
        {"ava_train_v2.2.csv": "A,0902,0.1,0.2,0.3,0.4,80,1\nA,0903,0.1,0.2,0.3,0.4,80,1\n"},
    ),
    "epic_kitchens100": Set(
        lambda root: read_epic_kitchens(root, None),
        ("P01_01.MP4",),
        {
            "EPIC_100_verb_classes.csv": "id,key\n0,take\n1,put\n",
            "EPIC_100_train.csv": "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,verb_class\n"
            "x,P01,P01_01,00:00:01.5,00:00:02.5,0\n",
        },
    ),
    "diving48": Set(
        lambda root: read_diving48(root, None),
        ("a.mp4", "b.mp4"),
        {
            "Diving48_vocab.json": json.dumps([["Back", "15som"], ["Front", "25som"]]),
            "Diving48_V2_train.json": json.dumps([{"vid_name": "a", "label": 0}]),
            "Diving48_V2_test.json": json.dumps([{"vid_name": "b", "label": 1}]),
        },
    ),
    "lerobot": Set(
        read_lerobot,
        ("videos/cam/file-000.mp4", "videos/cam/file-001.mp4"),
        {"meta/info.json": json.dumps(INFO), "meta/episodes.jsonl": "".join(json.dumps(e) + "\n" for e in EPISODES)},
    ),
}


@st.composite
def damage(draw, text: str) -> str:
    """A text with one or two of its words, or of the signs between them, replaced."""
    parts = re.split(r"([,\s:;\"\[\]{}]+)", text)
    for _ in range(draw(st.integers(1, 2))):
        parts[draw(st.integers(0, len(parts) - 1))] = draw(st.sampled_from(WORDS))
    return "".join(parts)


def put(root: Path, one: Set) -> None:
    for name in one.media:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    for name, text in one.texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text.encode())


@pytest.mark.parametrize("name", SETS)
def test_damaged_annotations_of_a_known_set(tmp_path, name) -> None:
    one = SETS[name]
    put(tmp_path, one)
    if name != "imagenet devkit":  # its meta.mat is none from the start
        found = one.read(tmp_path)
        assert found.splits["train"] and not found.missing

    @BOUNDED
    @given(st.sampled_from(sorted(one.texts)).flatmap(lambda file: st.tuples(st.just(file), damage(one.texts[file]))))
    def check(case: tuple[str, str]) -> None:
        file, text = case
        (tmp_path / file).write_bytes(text.encode(errors="surrogatepass"))
        try:
            found = one.read(tmp_path)
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 3100
        else:
            rows = [row for part in found.splits.values() for row in part]
            assert all((tmp_path / row.path).is_file() and -1 <= row.label < max(1, len(found.classes)) for row in rows)
        finally:
            (tmp_path / file).write_bytes(one.texts[file].encode())

    check()
