"""Small real data sets, laid out as the README of each says."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from hpm_video.preprocess.encode import write_video


def film(number: int) -> np.ndarray:
    waves = np.sin(
        np.arange(8)[:, None, None, None] * 0.5 + np.random.default_rng(number).uniform(0, 6, (1, 16, 16, 3))
    )
    return (127 + 120 * waves).astype(np.uint8)


class Things:
    """Small real data sets and files, made in `folder` when asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.videos = []
        for number in range(4):
            self.videos.append(folder / f"seed{number}.mkv")
            write_video(self.videos[-1], film(number), 10)

    def put_videos(self, root: Path, *names: str) -> None:
        for number, name in enumerate(names):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(self.videos[number % len(self.videos)].read_bytes())

    def root_of(self, name: str) -> Path:
        """The files of a data set as its README lays them out."""
        root = self.folder / "sets" / name
        if not root.is_dir():
            root.mkdir(parents=True)
            getattr(self, f"make_{name}")(root)
        return root

    def make_folder(self, root: Path) -> None:
        self.put_videos(root, "a/1.mp4", "a/2.mp4", "b/3.mp4", "b/4.mp4")

    def make_ssv2(self, root: Path) -> None:
        names = ["Pushing something", "Pulling something"]
        self.put_videos(root, *(f"20bn-something-something-v2/{number}.webm" for number in range(10)))
        entries = [{"id": str(n), "label": "a", "template": names[n % 2], "placeholders": []} for n in range(10)]
        files = {"labels": {name: str(k) for k, name in enumerate(names)}, "train": entries[:6]}
        for name, content in (files | {"validation": entries[6:]}).items():
            (root / f"{name}.json").write_text(json.dumps(content))

    def make_kinetics400(self, root: Path) -> None:
        names = [
            f"{split}/{label}/{n}.mp4" for split in ("train", "val") for label in ("zumba", "yoga") for n in (1, 2)
        ]
        self.put_videos(root, *names)

    def make_ucf101(self, root: Path) -> None:
        names = ["Archery/v_Archery_g{}_c01.avi", "Biking/v_Biking_g{}_c01.avi"]
        train, test = ([name.format(group) for name in names for group in groups] for groups in (("08", "09"), ("01",)))
        self.put_videos(root / "UCF-101", *train, *test)
        lists = root / "ucfTrainTestlist"
        lists.mkdir()
        (lists / "classInd.txt").write_text("1 Archery\n2 Biking\n")
        lines = [f"{name} {1 if 'Archery' in name else 2}" for name in train]
        (lists / "trainlist01.txt").write_text("\n".join(lines) + "\n")
        (lists / "testlist01.txt").write_text("\n".join(test) + "\n")

    def make_hmdb51(self, root: Path) -> None:
        lists = root / "testTrainMulti_7030_splits"
        lists.mkdir()
        for label in ("wave", "clap"):
            names = [f"a_{label}_{number}.avi" for number in range(3)]
            self.put_videos(root / "hmdb51_org" / label, *names)
            marks = "".join(f"{name} {mark} \n" for name, mark in zip(names, (1, 1, 2), strict=True))
            (lists / f"{label}_test_split1.txt").write_text(marks)

    def make_charades(self, root: Path) -> None:
        self.put_videos(root / "Charades_v1_480", *(f"{n}.mp4" for n in range(4)))
        (root / "Charades_v1_classes.txt").write_text("c000 Holding some clothes\nc001 Putting clothes somewhere\n")
        head = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"
        for part, numbers in (("train", (0, 1, 2)), ("test", (3,))):
            rows = [f"{n},S{n},Hall,6,6,Yes,a,b,c,c000 0.00 0.40;c001 0.30 0.80,0.80\n" for n in numbers]
            (root / f"Charades_v1_{part}.csv").write_text(head + "".join(rows))

    def make_ava(self, root: Path) -> None:
        self.put_videos(root / "trainval", *(f"{n}.mp4" for n in range(4)))
        for part, numbers in (("train", (0, 1, 2)), ("val", (3,))):
            rows = [f"{n},{time:04d},0.1,0.1,0.5,0.5,12,0\n" for n in numbers for time in (0, 1)]
            (root / f"ava_{part}_v2.2.csv").write_text("".join(rows))

    def make_epic_kitchens100(self, root: Path) -> None:
        self.put_videos(root, *(f"P0{n}/videos/P0{n}_01.MP4" for n in range(4)))
        for kind in ("verb", "noun"):
            (root / f"EPIC_100_{kind}_classes.csv").write_text("id,key,instances,category\n0,a,[],x\n1,b,[],x\n")
        head = "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,verb_class,noun_class\n"
        for part, numbers in (("train", (0, 1, 2)), ("validation", (3,))):
            rows = [f"P0{n}_01_0,P0{n},P0{n}_01,00:00:00.10,00:00:00.70,{n % 2},0\n" for n in numbers]
            (root / f"EPIC_100_{part}.csv").write_text(head + "".join(rows))

    def make_diving48(self, root: Path) -> None:
        self.put_videos(root / "rgb", *(f"a_0000{n}.mp4" for n in range(4)))
        (root / "Diving48_vocab.json").write_text(json.dumps([["Back", "15som", "NoTwis", "TUCK"], ["Forward"] * 4]))
        for part, numbers in (("train", (0, 1, 2)), ("test", (3,))):
            dives = [{"vid_name": f"a_0000{n}", "label": n % 2, "start_frame": 0, "end_frame": 7} for n in numbers]
            (root / f"Diving48_V2_{part}.json").write_text(json.dumps(dives))

    def make_lerobot(self, root: Path) -> None:
        """Three episodes of 4, 4 and 8 frames, at 10 frames a second, in two films."""
        self.put_videos(root / "videos/top/chunk-000", "file-000.mp4", "file-001.mp4")
        told = [(0, 0.0, 0.4, "Pick"), (0, 0.4, 0.8, "Place"), (1, 0.0, 0.8, "Pick")]
        rows = [
            {"episode_index": number, "tasks": [task], "videos/top/chunk_index": 0, "videos/top/file_index": file}
            | {"videos/top/from_timestamp": start, "videos/top/to_timestamp": stop}
            for number, (file, start, stop, task) in enumerate(told)
        ]
        (root / "meta/episodes/chunk-000").mkdir(parents=True)
        parquet.write_table(pa.Table.from_pylist(rows), root / "meta/episodes/chunk-000/file-000.parquet")
        path = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
        info = {"codebase_version": "v3.0", "fps": 10, "video_path": path, "features": {"top": {"dtype": "video"}}}
        (root / "meta/info.json").write_text(json.dumps(info))

    def make_webdataset(self, root: Path) -> None:
        for number, name in enumerate(("train-000.tar", "val-000.tar")):
            with tarfile.open(root / name, "w") as tar:
                for place in range(4):
                    note = json.dumps({"action": "ab"[place % 2]}).encode()
                    for ending, content in (("mp4", self.videos[place].read_bytes()), ("json", note)):
                        info = tarfile.TarInfo(f"{number}{place:04d}.{ending}")
                        info.size = len(content)
                        tar.addfile(info, io.BytesIO(content))

    def make_huggingface(self, root: Path) -> None:
        rows = [
            {"video": {"bytes": file.read_bytes(), "path": file.name}, "label": "ab"[n % 2]}
            for n, file in enumerate(self.videos)
        ]
        (root / "data").mkdir()
        parquet.write_table(pa.Table.from_pylist(rows), root / "data/train-00000-of-00001.parquet")

    def make_imagenet1k(self, root: Path) -> None:
        for split in ("train", "val"):
            for number, synset in enumerate(("n01440764", "n01443537") * 2):
                file = root / split / synset / f"{synset}_{number}.JPEG"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(film(number)[0]).save(file, format="JPEG")

    def make_fashion_mnist(self, root: Path) -> None:
        for name, count in (("train", 20), ("t10k", 10)):
            pictures = np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)
            for kind, values in (("images-idx3", pictures), ("labels-idx1", (np.arange(count) % 10).astype(np.uint8))):
                head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
                (root / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + values.tobytes()))

    def make_csv(self, root: Path) -> None:
        """The lists lie in ROOT, and where the command that names them is typed."""
        self.put_videos(root, *(f"{number}.mp4" for number in range(6)))
        for folder in (root, self.folder):
            (folder / "train.csv").write_text("".join(f"{n}.mp4 {n % 2}\n" for n in range(4)))
            (folder / "val.csv").write_text("4.mp4 0\n5.mp4 1\n")

    def make_synthetic(self, root: Path) -> None:
        """Made by its recipe."""


@pytest.fixture(scope="session")
def make_things() -> type[Things]:
    return Things
