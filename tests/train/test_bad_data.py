"""A run on files as they come: some broken, all broken, packed, listed, single frames."""

import json

import numpy as np
import pytest

from hpm_video.data.source import open_source
from hpm_video.preprocess.encode import write_video
from hpm_video.preprocess.pack import pack
from hpm_video.train.pretrain import pretrain
from hpm_video.types import UserError

SMALL = {
    "data__crop": "center",
    "train__steps": 12,
    "train__log_every_steps": 1,
    "train__num_pictures": 0,
    "engine__num_threads": 1,
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """40 clips: a square that moves over a ground of its own."""
    root, rng = tmp_path_factory.mktemp("films"), np.random.default_rng(0)
    for number in range(40):
        frames = np.empty((8, 32, 32, 3), dtype=np.uint8)
        frames[:] = rng.integers(0, 256, 3, dtype=np.uint8)
        for time in range(8):
            frames[time, 4 + 2 * time : 12 + 2 * time, 8:16] = rng.integers(0, 256, 3, dtype=np.uint8)
        write_video(root / f"{number:02d}.mp4", frames, 8)
    return root


def losses_of(run) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows]


def test_a_few_broken_files_change_nothing_but_their_own_samples(tiny_config, videos, tmp_path) -> None:
    """The same run with 2 of 40 files broken, in the loader's processes or in this one, ends and learns as without."""
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in videos.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "07.mp4").write_bytes(b"")
    (broken / "12.mp4").write_bytes((videos / "12.mp4").read_bytes()[:300])
    losses = {}
    for name, root, workers in (("whole", videos, 0), ("broken", broken, 0), ("workers", broken, 2)):
        config = tiny_config(
            data__root=str(root),
            data__num_workers=workers,
            data__max_bad_share=0.2,
            train__output=str(tmp_path / "runs" / name),
            **SMALL,
        )
        assert pretrain(config)
        losses[name] = losses_of(tmp_path / "runs" / name)
    assert losses["broken"] == losses["workers"] and len(losses["broken"]) == 12
    summary = json.loads((tmp_path / "runs" / "workers" / "results.json").read_text())["figures"]
    assert summary["num_bad"] >= 2 and {text.split(":")[0] for text in summary["bad_files"]} == {"07.mp4", "12.mp4"}
    rows = [json.loads(line) for line in (tmp_path / "runs" / "broken" / "metrics.jsonl").read_text().splitlines()]
    before = next(number for number, row in enumerate(rows) if row.get("bad_samples"))
    assert before >= 1 and losses["broken"][:before] == losses["whole"][:before] and losses["broken"] != losses["whole"]
    assert np.abs(np.array(losses["broken"]) - losses["whole"]).max() < 0.1 * losses["whole"][-1]


def test_all_broken_is_one_clear_message(tiny_config, tmp_path) -> None:
    for number in range(30):
        (tmp_path / f"{number}.mp4").write_bytes(b"not a video at all" * 20)
    with pytest.raises(UserError, match="none of the first .* could be read: .*no frame could be decoded") as caught:
        pretrain(tiny_config(data__root=str(tmp_path), train__output=str(tmp_path / "run"), **SMALL))
    assert "\n" not in str(caught.value)


def test_more_broken_than_allowed_stops_and_names_them(tiny_config, videos, tmp_path) -> None:
    for file in videos.iterdir():
        (tmp_path / file.name).write_bytes(b"" if int(file.stem) % 2 else file.read_bytes())
    with pytest.raises(
        UserError, match=r"samples could not be read, more than data.max_bad_share 0.05 \(.*file is empty"
    ):
        pretrain(tiny_config(data__root=str(tmp_path), train__output=str(tmp_path / "run"), **SMALL))


def test_shards_train_and_resume_bitwise(tiny_config, videos, tmp_path) -> None:
    config = tiny_config(data__root=str(videos))
    pack(config.data, str(tmp_path / "tars"), 7, 0, 2)
    assert len(open_source(tiny_config(data__root=str(tmp_path / "tars")).data, "train")) == 40
    more = {"data__root": str(tmp_path / "tars"), "data__num_workers": 2} | SMALL
    assert pretrain(tiny_config(train__output=str(tmp_path / "whole"), **more))
    first = more | {"train__save_every_steps": 5, "train__keep_checkpoints": 9}
    assert pretrain(tiny_config(train__output=str(tmp_path / "parts"), **first))
    for checkpoint in sorted((tmp_path / "parts" / "checkpoints").iterdir())[1:]:
        for file in checkpoint.iterdir():
            file.unlink()
        checkpoint.rmdir()
    assert pretrain(tiny_config(train__output=str(tmp_path / "parts"), **(first | {"data__num_workers": 1})))
    assert losses_of(tmp_path / "parts") == losses_of(tmp_path / "whole")


@pytest.mark.parametrize("repeats", [1, 4])
def test_repeats_train(tiny_config, videos, tmp_path, repeats) -> None:
    config = tiny_config(
        data__root=str(videos), data__repeats=repeats, data__fps=4.0, train__output=str(tmp_path / "run"), **SMALL
    )
    assert pretrain(config) and len(losses_of(tmp_path / "run")) == 12
