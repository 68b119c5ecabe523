"""Shards on S3 and on a web server: what a store does wrong is no file's fault, and ends in a sentence at the latest."""

import http.server
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch

from hpm_video.config import DataConfig
from hpm_video.data import shards, store
from hpm_video.data.dataset import ClipDataset
from hpm_video.data.loader import make_loader
from hpm_video.data.shards import open_shards
from hpm_video.data.source import open_source
from hpm_video.preprocess.encode import write_video
from hpm_video.preprocess.pack import pack
from hpm_video.types import UnreadableVideo, UserError

pytest.importorskip("aiohttp", reason="aiohttp is not installed")
COUNT = 6
RUN = (
    "data.num_frames=2 data.frame_size_px=[16,16] data.num_workers=2 data.num_held_out=1 data.time_limit_s=4 model.patch_px=4 "
    "model.width=36 model.depth=1 model.num_heads=3 model.decoder_width=16 model.decoder_heads=2 model.decoder_depth=1 "
    "mask.ratio=0.75 optim.batch_size=4 train.steps=250 train.log_every_steps=1 train.measure_every_steps=250 "
    "train.save_every_steps=250 engine.precision=fp32 engine.num_threads=1 engine.lost_after_s=20"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    for number in range(COUNT):
        write_video(root / f"{number}.mp4", rng.integers(0, 255, (4, 24, 32, 3), dtype=np.uint8), 10)
    return root


@pytest.fixture(scope="module")
def packed(folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "out"
    pack(DataConfig(root=str(folder)), str(out), samples_per_shard=2)
    return out


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder, parts of files too; `fault` says what it does instead, for which files, until when or how often."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.sent = folder, 0
        self.heal()

    def heal(self) -> None:
        self.fault, self.where, self.times, self.until_s, self.tries = "", "", 10**9, float("inf"), 0

    def is_faulty(self, path: str) -> bool:
        faulty = bool(self.fault) and self.where in path and self.times > 0 and time.monotonic() < self.until_s
        self.times -= faulty
        self.tries += faulty
        return faulty

    def handle_error(self, request, client_address) -> None:
        """A client that has hung up is no news."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *given) -> None: ...

    def do_GET(self) -> None:
        fault = self.server.fault if self.server.is_faulty(self.path) else ""
        file = self.server.folder / self.path.lstrip("/")
        if fault.startswith("slow"):
            time.sleep(float(fault.removeprefix("slow") or 2.5))
        if fault == "hang up":
            self.connection.close()
            return
        if fault.isdecimal() or not file.is_file():
            self.send_error(int(fault or 404))
            return
        content, given = file.read_bytes(), self.headers.get("Range")
        if given and fault != "no ranges":
            first, last = given.removeprefix("bytes=").split("-")
            content = content[int(first) : int(last) + 1]
            self.send_response(206 if content else 416)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)
        self.server.sent += len(content)
        if fault == "cut":
            self.connection.close()


@pytest.fixture(scope="module")
def running(packed) -> Iterator[Server]:
    server = Server(packed)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture()
def web(running, monkeypatch) -> Server:
    running.heal()
    monkeypatch.setattr(store, "WAITS_S", (0.05, 0.1, 0.2))
    shards._read.cache_clear()
    return running


def config_of(url: str, **keys) -> DataConfig:
    return DataConfig(root=url, num_frames=2, frame_size_px=[16, 16], **({"store_timeout_s": 60.0} | keys))


def clips(config: DataConfig, workers: int, steps: int = 6) -> list[torch.Tensor]:
    dataset = ClipDataset(open_source(config, "train"), config, 0, training=True)
    batches = list(make_loader(dataset, 2, 2, 0, 1, 0, workers, steps))
    assert not any(batch.failures for batch in batches)
    return [batch.clip for batch in batches]


def same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    return len(found) == len(expected) and all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_web_server_gives_the_same_clips(web, packed, workers) -> None:
    assert same(clips(config_of(web.url), workers), clips(config_of(str(packed)), 0))


@pytest.mark.parametrize("fault", ["503", "429", "hang up", "cut"])
def test_a_store_that_is_away_for_a_while_costs_no_sample(web, packed, fault, caplog) -> None:
    """Said once when it goes, once when it is back."""
    expected = clips(config_of(str(packed)), 0)
    config = config_of(web.url)
    dataset = ClipDataset(open_source(config, "train"), config, 0, training=True)
    web.fault, web.times = fault, 4
    batches = list(make_loader(dataset, 2, 2, 0, 1, 0, 0, 6))
    assert web.tries == 4 and same([batch.clip for batch in batches], expected)
    assert not dataset.bad and not any(batch.failures for batch in batches)
    told = [record.getMessage() for record in caplog.records if web.url in record.getMessage()]
    assert len(told) == 2 and "does not answer" in told[0] and "retrying for up to 60 s" in told[0]
    assert told[1] == f"{web.url} answers again"


def test_workers_wait_for_a_store_for_longer_than_for_a_file(web, packed, caplog) -> None:
    """The limit of a file's decoding does not count the store's time, and the workers' news are logged once for all."""
    expected = clips(config_of(str(packed)), 0)
    config = config_of(web.url, time_limit_s=3.0)
    dataset = ClipDataset(open_source(config, "train"), config, 0, training=True)
    web.fault, web.until_s = "503", time.monotonic() + 5.0
    batches = list(make_loader(dataset, 2, 2, 0, 1, 0, 2, 6))
    assert same([batch.clip for batch in batches], expected) and not dataset.bad
    told = [record.getMessage() for record in caplog.records if web.url in record.getMessage()]
    assert sum("does not answer" in text for text in told) == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_a_store_that_stays_away_stops_the_run_with_a_sentence(web, workers) -> None:
    config = config_of(web.url, store_timeout_s=1.0)
    dataset = ClipDataset(open_source(config, "train"), config, 0, training=True)
    web.fault = "503"
    with pytest.raises(
        UserError, match="has not answered for 1 s .*503.*data.store_timeout_s. Run the same command again"
    ):
        list(make_loader(dataset, 2, 2, 0, 1, 0, workers, 6))
    assert not dataset.bad


def test_a_read_that_is_too_slow_ends_in_a_sentence(web) -> None:
    slow = open_shards(web.url, "train", 60.0)
    source = replace(slow, timeout_s=2.0)
    web.fault = "slow"
    with pytest.raises(UserError, match=r"has not answered for 2 s \(TimeoutError: no answer within 1 s\)"):
        source.item(0)
    web.fault, web.times = "slow", 1
    assert slow.item(3).media


def test_one_missing_tar_is_bad_files_a_forbidden_one_too(web, packed) -> None:
    source, local = open_shards(web.url, "train", 60.0), open_shards(str(packed), "train")
    web.where = "train-000001.tar"
    for web.fault, reason in (("404", "FileNotFoundError"), ("403", "403"), ("410", "410")):
        shards._read.cache_clear()
        with pytest.raises(UnreadableVideo, match=reason) as caught:
            source.item(2)
        assert caught.value.path == local.name(2)
        assert source.item(0) == local.item(0)


@pytest.mark.parametrize(
    ("fault", "words"),
    [("404", "shards.json does not exist"), ("403", "refuses to be read .*403"), ("401", "refuses to be read .*401")],
)
def test_a_store_that_gives_nothing_is_told_at_the_start(web, fault, words) -> None:
    web.fault = fault
    with pytest.raises(UserError, match=words):
        open_shards(web.url, "train", 60.0)
    web.heal()
    source = open_shards(web.url, "train", 60.0)
    web.fault = fault
    with pytest.raises(UnreadableVideo if fault == "404" else UserError):
        source.item(0)


def test_a_server_without_ranges_is_refused_at_the_start(web, packed) -> None:
    web.fault, web.where = "no ranges", ".tar"
    with pytest.raises(UserError, match=r"sends whole files .*no HTTP range requests.*on a disk"):
        open_shards(web.url, "train", 60.0)
    web.heal()
    source = open_shards(web.url, "train", 60.0)
    web.fault = "no ranges"
    source.name(0)
    with pytest.raises(UserError, match="sends whole files"):
        source.item(0)


def test_a_missing_library_is_named(monkeypatch) -> None:
    def fail(url):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(store, "url_to_fs", fail)
    with pytest.raises(UserError, match=r"s3://nowhere/x needs .*pip install 'hpm-video\[s3\]'"):
        open_shards("s3://nowhere/x", "train")


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A server of S3, which can be stopped and started again with what it holds."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = pytest.importorskip("moto.server", reason="moto is not installed").ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    server._port = server._server.port
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    yield server
    server.stop()


@pytest.fixture()
def bucket(s3, monkeypatch, tmp_path) -> str:
    s3fs = pytest.importorskip("s3fs")
    given = {
        "ACCESS_KEY_ID": "a",
        "SECRET_ACCESS_KEY": "b",
        "DEFAULT_REGION": "us-east-1",
        "ENDPOINT_URL": f"http://127.0.0.1:{s3._port}",
    }
    for name, value in (given | {"EC2_METADATA_DISABLED": "true", "CONFIG_FILE": str(tmp_path / "none")}).items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for cache in (s3fs.S3FileSystem.clear_instance_cache, store._open.cache_clear, shards._read.cache_clear):
        cache()
    return f"s3://{tmp_path.name.replace('_', '-').lower()}/set"


def test_packed_to_s3_and_read_back(bucket, folder, packed) -> None:
    pack(DataConfig(root=str(folder)), bucket, samples_per_shard=2)
    source, local = open_source(config_of(bucket), "train"), open_shards(str(packed), "train")
    assert [source.item(row) for row in range(COUNT)] == [local.item(row) for row in range(COUNT)]
    assert same(clips(config_of(bucket), 2), clips(config_of(str(packed)), 0))
    fsspec.filesystem("s3").rm(f"{bucket}/train-000001.tar")
    with pytest.raises(UnreadableVideo, match="FileNotFoundError") as caught:
        source.item(2)
    assert caught.value.path == local.name(2) and source.version()


def test_s3_says_what_is_wrong(bucket, monkeypatch) -> None:
    with pytest.raises(UserError, match="shards.json does not exist .*bucket does not exist"):
        open_shards("s3://no-such-bucket/set", "train", 60.0)
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.delenv(f"AWS_{name}")
    pytest.importorskip("s3fs").S3FileSystem.clear_instance_cache()
    store._open.cache_clear()
    with pytest.raises(UserError, match="refuses to be read .*credentials.*AWS_PROFILE"):
        open_shards(bucket, "train", 60.0)


def start_two_ranks(start_here: Callable, root: str, out: Path, *keys: str) -> subprocess.Popen:
    """Start a run of two ranks with two reading processes each."""
    words = ["-m", "hpm_video", "pretrain", *RUN, f"data.root={root}", f"train.output={out}", *keys]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return start_here(*launcher, *words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def wait_for_steps(out: Path, number: int) -> None:
    """Wait until a run has logged so many steps."""
    until = time.monotonic() + 120
    while not (out / "metrics.jsonl").exists() or len((out / "metrics.jsonl").read_text().splitlines()) < number:
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.fixture(scope="module")
def undisturbed(packed, start_here, tmp_path_factory) -> list[float]:
    """The losses of two ranks on the same shards on a disk."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    run = start_two_ranks(start_here, str(packed), out)
    said = run.communicate(timeout=200)[0]
    assert run.returncode == 0 and len(losses(out)) == 250, said
    return losses(out)


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "seconds"), [("503", 8), ("hang up", 8), ("503", 60), ("slow1", 8), ("slow5", 20)])
def test_two_ranks_outlast_a_web_server_that_is_away(web, start_here, undisturbed, tmp_path, fault, seconds) -> None:
    run = start_two_ranks(start_here, web.url, tmp_path / "run")
    wait_for_steps(tmp_path / "run", 20)
    web.fault, web.until_s = fault, time.monotonic() + seconds
    said = run.communicate(timeout=300)[0]
    assert run.returncode == 0 and web.tries > 0, said
    assert losses(tmp_path / "run") == undisturbed
    assert ("does not answer" in said and "answers again" in said) or fault.startswith("slow"), said
    assert not (tmp_path / "run" / "bad.csv").exists() and "Traceback" not in said


@pytest.mark.slow
def test_two_ranks_end_with_one_sentence_where_a_store_stays_away(web, start_here, undisturbed, tmp_path) -> None:
    """The same command goes on when it is back, to the same losses."""
    given = web.url, tmp_path / "run", "train.save_every_steps=10", "data.store_timeout_s=3"
    run = start_two_ranks(start_here, *given)
    wait_for_steps(tmp_path / "run", 20)
    web.fault = "503"
    said = run.communicate(timeout=90)[0]
    assert run.returncode != 0 and "has not answered for 3 s" in said and "Run the same command again" in said, said
    assert said.count("Traceback") == 1, said  # torchrun's own
    web.heal()
    run = start_two_ranks(start_here, *given)
    said = run.communicate(timeout=200)[0]
    assert run.returncode == 0 and "resuming from" in said and losses(tmp_path / "run") == undisturbed, said


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["404", "no ranges"])
def test_two_ranks_name_what_a_web_server_does_not_give(web, start_here, tmp_path, fault) -> None:
    web.fault, web.where = fault, "train-000001.tar"
    said = start_two_ranks(start_here, web.url, tmp_path / "run").communicate(timeout=200)[0]
    if fault == "404":  # two files of six: more than the share that may be bad
        assert "train-000001.tar" in said and "could not be read" in said, said
    else:
        assert "sends whole files" in said, said
    assert said.count("Traceback") <= 1, said  # torchrun's own


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [8, 60])
def test_two_ranks_outlast_s3_that_is_away(bucket, s3, folder, start_here, undisturbed, tmp_path, seconds) -> None:
    """The server stops and comes back at its port."""
    pack(DataConfig(root=str(folder)), bucket, samples_per_shard=2)
    run = start_two_ranks(start_here, bucket, tmp_path / "run")
    wait_for_steps(tmp_path / "run", 20)
    s3.stop()
    s3._server.server_close()
    time.sleep(seconds)
    s3.start()
    said = run.communicate(timeout=300)[0]
    assert run.returncode == 0 and losses(tmp_path / "run") == undisturbed, said
    assert "does not answer" in said and "answers again" in said and "Traceback" not in said, said
