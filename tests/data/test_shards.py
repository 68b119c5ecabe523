"""Tar shards: what is packed is what is read, once, wherever it lies and however it was interrupted."""

import csv
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest

from hpm_video.catalog.rows import Row
from hpm_video.cli import main
from hpm_video.config import DataConfig
from hpm_video.data import store
from hpm_video.data.loader import StepSampler
from hpm_video.data.manifest import write_manifest
from hpm_video.data.orders import WindowedOrder
from hpm_video.data.shards import Shards, open_shards
from hpm_video.data.source import Source, open_source
from hpm_video.data.splits import hold_out
from hpm_video.preprocess.encode import write_video
from hpm_video.preprocess.pack import pack
from hpm_video.types import UnreadableVideo, UserError

CLASSES = ["up", "down", "stay"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """A manifest of 22 + 6 files, the first two real clips, the others of different lengths."""
    root = tmp_path_factory.mktemp("videos")
    rows = {"train": [], "validation": []}
    for number in range(28):
        path = f"{'ab'[number % 2]}/clip.{number} ü.{'mp4' if number % 3 else 'webm'}"
        (root / path).parent.mkdir(exist_ok=True)
        if number < 2:
            write_video(root / path, np.full((3, 16, 16, 3), 40 * number, np.uint8), 10)
        else:
            (root / path).write_bytes(bytes([number]) * (500 + 37 * number))
        rows["train" if number < 22 else "validation"].append(Row(path, number % 3, frames=3))
    write_manifest(root, "clips", root, rows, CLASSES, left_right=True)
    return root


@pytest.fixture(scope="module")
def packed(videos, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "out"
    pack(DataConfig(root=str(videos)), str(out), samples_per_shard=4)
    return out


@pytest.fixture()
def own(videos, tmp_path) -> Path:
    """A packed set that a test may break."""
    pack(DataConfig(root=str(videos)), str(tmp_path / "own"), samples_per_shard=4)
    return tmp_path / "own"


def stamps(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in folder.glob("[!.]*-*")}


@pytest.mark.parametrize(("split", "count"), [("train", 22), ("validation", 6)])
def test_each_sample_once_and_as_it_was(videos, packed, split, count) -> None:
    config = DataConfig(root=str(packed))
    before, after = open_source(DataConfig(root=str(videos)), split), open_source(config, split)
    assert isinstance(after, Shards) and isinstance(after, Source) and len(after) == count
    assert after.classes == CLASSES and after.left_right and str(packed) in after.source
    names = [after.name(row) for row in range(count)]
    assert sorted(names) == sorted(before.paths) and (names != before.paths) == (split == "train")
    for row in range(count):
        item, was = after.item(row), before.item(before.paths.index(names[row]))
        assert item.media == was.media.read_bytes() and item._replace(media=was.media) == was
    assert open_source(config, "test") is None


def test_webdataset_reads_the_same(packed) -> None:
    wds = pytest.importorskip("webdataset", reason="webdataset is not installed")
    source = open_shards(str(packed), "train")
    samples = list(wds.WebDataset(str(packed / "train-{000000..000005}.tar"), shardshuffle=False))
    assert len(samples) == 22 and len({sample["__key__"] for sample in samples}) == 22
    for row, sample in enumerate(samples):
        item, note = source.item(row), json.loads(sample["json"])
        assert sample[item.name.rsplit(".", 1)[1]] == item.media
        assert note == {"path": item.name, "label": item.label, "class": CLASSES[item.label]}


def test_tars_are_full_but_the_last_and_the_same_when_packed_again(packed, own) -> None:
    sizes = {}
    for file in sorted(packed.glob("*.tar")):
        with tarfile.open(file) as tar:
            members = tar.getmembers()
        index = json.loads(file.with_suffix(".json").read_text())
        assert [m.offset_data for m in members[::2]] == [sample[2] for sample in index["samples"]]
        sizes[file.name] = len(members) // 2
        assert file.read_bytes() == (own / file.name).read_bytes()
    assert list(sizes.values()) == [4, 4, 4, 4, 4, 2, 4, 2] and not list(packed.glob("*.half"))


def test_any_file_system(videos, packed) -> None:
    url = "memory://sets/clips"
    pack(DataConfig(root=str(videos)), url, samples_per_shard=4)
    source, local = open_source(DataConfig(root=url), "train"), open_shards(str(packed), "train")
    assert [source.item(row) for row in range(22)] == [local.item(row) for row in range(22)]
    assert fsspec.filesystem("memory").exists("/sets/clips/shards.json")
    with pytest.raises(UnreadableVideo, match="FileNotFoundError"):
        fsspec.filesystem("memory").rm("/sets/clips/train-000000.tar")
        open_shards(url, "train").item(0)


def test_unknown_and_wrong_places(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(store, "RETRY_AFTER_S", ())
    for root, words in (("nosuch://x/y", "Protocol not known"), (str(tmp_path), "shards.json does not exist")):
        with pytest.raises(UserError, match=words):
            open_source(DataConfig(root=root, format="shards"), "train")
    with pytest.raises(UserError, match="that can be written to"):
        (tmp_path / "a.mp4").write_bytes(b"x")
        pack(DataConfig(root=str(tmp_path)), "nosuch://x/y")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "other 3"}, "format 'other 3'; expected 'hpm-video shards 1'"),
        ({"classes": None}, "lacks classes"),
        ({"splits": {"train": []}}, "split train: pattern None; expected 'train-{:06d}.tar'"),
        ({"splits": {"train": {"pattern": "a.tar"}}}, "pattern 'a.tar'"),
        ({"splits": {"train": {"pattern": "train-{:06d}.tar", "num_samples": "9"}}}, "expected num_samples and"),
    ],
)
def test_wrong_header_is_told(own, change, words) -> None:
    header = json.loads((own / "shards.json").read_text())
    (own / "shards.json").write_text(json.dumps(header | change))
    with pytest.raises(UserError, match=words):
        open_shards(str(own), "train")
    (own / "shards.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON .*line 1"):
        open_shards(str(own), "train")


def test_broken_tars_and_indices_are_unreadable_samples(own) -> None:
    source = open_shards(str(own), "train")
    names = [source.name(row) for row in range(22)]
    whole = (own / "train-000001.tar").read_bytes()
    (own / "train-000000.tar").unlink()
    (own / "train-000001.tar").write_bytes(
        whole[: json.loads((own / "train-000001.json").read_text())["samples"][2][2] + 9]
    )
    (own / "train-000002.json").unlink()
    (own / "train-000003.json").write_text("[")
    source = open_shards(str(own), "train")
    expected = {
        0: (names[0], "train-000000.tar, bytes 512 to .*FileNotFoundError"),
        6: (names[6], "train-000001.tar: 9 of .* bytes: the tar is cut off"),
        7: (names[7], "train-000001.tar: 0 of .* bytes"),
        9: ("train-000002.tar, sample 2", "train-000002.json: FileNotFoundError"),
        12: ("train-000003.tar, sample 1", "train-000003.json: JSONDecodeError"),
    }
    for row, (name, reason) in expected.items():
        with pytest.raises(UnreadableVideo, match=reason) as caught:
            source.item(row)
        assert caught.value.path == name == source.name(row)
    assert source.item(5).name == names[5] and source.item(21).name == names[21]


def test_a_failing_disk_is_asked_again_then_told(packed, monkeypatch) -> None:
    monkeypatch.setattr(store, "RETRY_AFTER_S", (0, 0))
    source = open_shards(str(packed), "train")
    assert source.name(3)
    asked, whole = [], fsspec.implementations.local.LocalFileSystem.cat_file

    def fail(self, path, start=None, end=None, **more):
        asked.append(path)
        if len(asked) <= failures:
            raise TimeoutError("no answer")
        return whole(self, path, start, end)

    monkeypatch.setattr(fsspec.implementations.local.LocalFileSystem, "cat_file", fail)
    failures = 2
    assert source.item(3).name == source.name(3) and len(asked) == 3
    asked, failures = [], 3
    with pytest.raises(UnreadableVideo, match="bytes .*TimeoutError: no answer"):
        source.item(2)
    asked, failures = [], 0
    source.item(1), source.item(1).label
    assert len(asked) == 1  # the bytes, and apart the label: one read


@pytest.mark.parametrize("url", ["{}", "async_wrapper::file://{}"])
def test_forked_after_reading(packed, url) -> None:
    """The second file system reads in a thread, as those of networks do: a fork has no such thread."""
    if url != "{}":
        pytest.importorskip("fsspec.implementations.asyn_wrapper", reason="fsspec is too old for this test")
    source = open_shards(url.format(packed), "train")
    expected = [source.item(row) for row in range(22)]
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
        assert list(pool.map(source.item, range(22), timeout=600)) == expected


def test_small_to_pickle_and_read_in_a_new_process(packed) -> None:
    source = open_shards(str(packed), "train")
    expected = [source.item(row) for row in range(22)]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert list(pool.map(source.item, range(0, 22, 5), timeout=600)) == expected[::5]
    many = Shards(
        root="s3://bucket/set", split="train", pattern="train-{:06d}.tar", samples_per_shard=1000, start=0, stop=10**7,
        classes=CLASSES, set_name="many", left_right=False,
    )  # fmt: skip
    assert len(pickle.dumps(many)) < 1000 and len(many) == 10**7


def test_hold_out_takes_the_last_rows(packed) -> None:
    source = open_shards(str(packed), "train")
    names = [source.name(row) for row in range(22)]
    for num, expected in ((3, 3), (32, 5)):
        rest, held_out = hold_out(source, num, 0)
        parts = [[part.name(row) for row in range(len(part))] for part in (rest, held_out)]
        assert parts == [names[:-expected], names[-expected:]]
        assert sorted(rest.order.row(0, 0, place) for place in range(len(rest))) == list(range(22 - expected))
    assert held_out.part(1, 3).name(0) == names[18] and held_out.item(4).name == names[21]
    single = source.part(0, 1)
    assert hold_out(single, 3, 0) == (single, single)


@pytest.mark.parametrize("num_samples", [1, 7, 8, 9, 37, 64, 100])
@pytest.mark.parametrize(("per_shard", "window"), [(1, 1), (4, 2), (4, 64), (8, 3), (100, 2)])
def test_windowed_order_is_a_permutation(num_samples, per_shard, window) -> None:
    for seed, epoch in ((0, 0), (0, 1), (7, 3)):
        order = WindowedOrder(num_samples, per_shard, window)
        assert sorted(order.row(seed, epoch, place) for place in range(num_samples)) == list(range(num_samples))


def test_windowed_order_is_local_and_a_function_of_seed_epoch_and_place() -> None:
    num, per_shard, window = 1003, 10, 8
    order = WindowedOrder(num, per_shard, window)
    rows = {key: [order.row(*key, place) for place in range(num)] for key in ((0, 0), (0, 1), (1, 0))}
    assert len({tuple(r) for r in rows.values()}) == 3
    for drawn in rows.values():
        of = np.array(drawn) // per_shard
        assert max(len(set(of[i : i + per_shard])) for i in range(num)) > 4  # mixed within a window
        changes = [i for i in range(1, num) if not set(of[:i]) & set(of[i:])]  # no shard on both sides
        ends = [0, *changes, num]
        assert len(changes) == 12 and max(len(set(of[a:b])) for a, b in zip(ends, ends[1:], strict=False)) == window
    places = np.random.default_rng(0).permutation(num)[:50].tolist()
    assert [WindowedOrder(num, per_shard, window).row(0, 1, p) for p in places] == [rows[0, 1][p] for p in places]
    assert [order.row(0, 1, p) for p in places] == [rows[0, 1][p] for p in places]  # jumping back and forth


def test_windowed_order_holds_little() -> None:
    order = WindowedOrder(10**7, 1000)
    order.row(0, 0, 5 * 10**6)
    assert sum(a.nbytes for a in (order._shards, order._ends, order._rows)) < 700_000


def test_ranks_and_workers_share_no_row_and_resume_goes_on(packed) -> None:
    source = open_shards(str(packed), "train")
    batches: dict[tuple[int, int], list[str]] = {}
    for rank in (0, 1):
        for number, keys in enumerate(StepSampler(source.order, 0, 2, 1, rank, 2, range(11))):
            batches.setdefault((rank, number % 2), []).extend(source.item(row).name for row, _ in keys)
    assert len(batches) == 4 and min(map(len, batches.values())) == 5
    assert sorted(sum(batches.values(), [])) == sorted(source.name(row) for row in range(22))
    whole = [keys for keys in StepSampler(source.order, 0, 2, 1, 1, 2, range(30))]
    assert [keys for keys in StepSampler(source.order, 0, 2, 1, 1, 2, range(7, 30))] == whole[7:]


def test_bad_files_are_listed_and_left_out_up_to_a_share(tmp_path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(10):
        (tmp_path / "in" / f"{number}.mp4").write_bytes(b"x" * number)
    (tmp_path / "in" / "gone.mp4").symlink_to("nowhere")
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"2 of 11 rows (?=.*0\.mp4 \(file is empty)(?=.*gone\.mp4 \(No such file)"):
        pack(DataConfig(root=str(tmp_path / "in")), str(out))
    assert not list(out.glob("*.tar")) and not (out / "pack.json").exists()
    pack(DataConfig(root=str(tmp_path / "in"), max_bad_share=0.2), str(out), samples_per_shard=4)
    with (out / "bad.csv").open(encoding="utf-8", newline="") as stream:
        rows = sorted(csv.reader(stream))
    assert [row[:2] for row in rows] == [["split", "path"], ["train", "0.mp4"], ["train", "gone.mp4"]]
    source = open_shards(str(out), "train")
    assert sorted(source.name(row) for row in range(len(source))) == [f"{n}.mp4" for n in range(1, 10)]
    assert source.classes == [] and source.item(0).label == -1


def test_what_cannot_be_packed(tmp_path, packed, videos) -> None:
    (tmp_path / "frames" / "a").mkdir(parents=True)
    write_manifest(tmp_path / "set", "f", tmp_path / "frames", {"train": [Row("a")]}, [])
    with pytest.raises(UserError, match="frames/a: is a folder of frames, which shards do not hold yet"):
        pack(DataConfig(root=str(tmp_path / "set")), str(tmp_path / "out"))
    with pytest.raises(UserError, match="holds shards already"):
        pack(DataConfig(root=str(packed)), str(tmp_path / "out"))
    with pytest.raises(UserError, match="at least 1"):
        pack(DataConfig(root=str(videos)), str(tmp_path / "out"), samples_per_shard=0)


def test_other_settings_or_samples_are_refused(videos, own, tmp_path) -> None:
    before = stamps(own)
    with pytest.raises(UserError, match="pack.json: samples_per_shard was 4, is 5; seed was 0, is 1"):
        pack(DataConfig(root=str(videos)), str(own), samples_per_shard=5, seed=1)
    (tmp_path / "x.mp4").write_bytes(b"x")
    with pytest.raises(UserError, match="samples was .*22 samples.* is .*1 samples"):
        pack(DataConfig(root=str(tmp_path), format="folder"), str(own), samples_per_shard=4)
    (own / "pack.json").write_text("[]")
    with pytest.raises(UserError, match="expected what hpm-video pack wrote"):
        pack(DataConfig(root=str(videos)), str(own), samples_per_shard=4)
    assert stamps(own) == before


def test_killed_pack_is_refused_and_goes_on(videos, packed, tmp_path) -> None:
    out = tmp_path / "out"
    slow = (
        "import sys, time\nfrom hpm_video.preprocess import pack\nfrom hpm_video.config import DataConfig\nread = pack._read_file\n"
        "pack._read_file = lambda item: time.sleep(0.15) or read(item)\n"
        "pack.pack(DataConfig(root=sys.argv[1]), sys.argv[2], 4, 0, 2)"
    )
    process = subprocess.Popen([sys.executable, "-c", slow, str(videos), str(out)], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 600
    while not list(out.glob("train-*.json")) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = {name: at for name, at in stamps(out).items() if (out / name).with_suffix(".json").exists()}
    assert 2 <= len(finished) < 16 and not (out / "shards.json").exists()
    with pytest.raises(UserError, match="shards.json does not exist; .*hpm-video pack again"):
        open_source(DataConfig(root=str(out), format="shards"), "train")
    with pytest.raises(UserError):
        open_source(DataConfig(root=str(out)), "train")
    pack(DataConfig(root=str(videos)), str(out), samples_per_shard=4)
    assert finished.items() <= stamps(out).items()
    assert sorted(file.name for file in out.iterdir()) == sorted(file.name for file in packed.iterdir())
    for file in packed.glob("*.tar"):
        assert (out / file.name).read_bytes() == file.read_bytes()


def test_command(videos, packed, tmp_path, capsys) -> None:
    words = ["pack", str(videos), str(tmp_path / "out"), "--samples-per-shard", "4", "--workers", "2"]
    assert main(words) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [f"wrote {tmp_path / 'out'}", f"Next: hpm-video pretrain data.root={tmp_path / 'out'}"]
    before = stamps(tmp_path / "out")
    assert main(words) == 0 and stamps(tmp_path / "out") == before
    source = open_shards(str(tmp_path / "out"), "train")
    assert source.item(9).media == open_shards(str(packed), "train").item(9).media
    assert main([*words, "--seed", "3"]) == 1
    assert "seed was 0, is 3" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd"])
def test_rows_that_lead_out_of_the_set_are_not_packed(videos, tmp_path, capsys, path) -> None:
    write_manifest(tmp_path / "list", "mine", videos, {"train": [Row("nothing.mkv"), Row(path)]}, [])
    assert main(["pack", str(tmp_path / "list"), str(tmp_path / "out")]) == 1
    told = capsys.readouterr().err
    assert f"train.csv, row 2: {path} lies outside" in told and not (tmp_path / "out").exists()


def test_a_place_of_somebody_elses_is_not_written_to(videos) -> None:
    system, words = fsspec.filesystem("memory"), (DataConfig(root=str(videos)), "memory://theirs/set", 4)
    system.pipe_file("/theirs/set/train-000000.tar", b"theirs")
    with pytest.raises(UserError, match="holds files that hpm-video pack did not write"):
        pack(*words)
    assert system.ls("/theirs/set", detail=False) == ["/theirs/set/train-000000.tar"]
    system.rm("/theirs/set/train-000000.tar")
    pack(*words)
    system.pipe_file("/theirs/set/thesis.txt", b"theirs")
    system.rm("/theirs/set/.hpm-video.json")
    system.rm("/theirs/set/train-000001.json")
    pack(*words)  # as before there were marks
    assert system.cat_file("/theirs/set/thesis.txt") == b"theirs" and system.exists("/theirs/set/train-000001.json")
