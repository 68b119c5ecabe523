"""Predictions against the answers of a test, windows by hand, long videos in pieces."""

import json
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from hpm_video.cli import main
from hpm_video.evals.finetuned import predict, windows
from hpm_video.evals.finetuned.answers import read_records
from hpm_video.evals.finetuned.multi_view_test import evaluate_run
from hpm_video.evals.finetuned.predict import Predictor, list_samples
from hpm_video.evals.finetuned.windows import Window, slide, slide_seconds
from hpm_video.preprocess.encode import write_video
from hpm_video.types import UserError


@pytest.fixture
def long_video(tmp_path) -> tuple[Path, np.ndarray]:
    frames = np.random.default_rng(5).integers(0, 256, (100, 16, 28, 3), dtype=np.uint8)
    write_video(tmp_path / "long.mkv", frames, 10)
    return tmp_path / "long.mkv", frames


def spans(windows: list[Window]) -> list[tuple[int, int]]:
    return [(window.start, window.stop) for window in windows]


def test_windows_of_frames() -> None:
    times = np.arange(21) / 10
    assert spans(slide(times[:6], 7, 0.3)) == [(0, 5)] and spans(slide(times[:8], 7, 0.1)) == [(0, 7)]
    assert spans(slide(times, 7, 0.5)) == [(0, 7), (5, 12), (10, 17), (13, 20)]
    assert slide(times[:15], 7) == [Window(0, 7, 0.0, 0.7), Window(7, 14, 0.7, 1.4)]


def test_windows_of_seconds() -> None:
    """20 frames in a second, then one every half second: a window holds the frames that its time holds."""
    times = np.concatenate([np.arange(20) / 20, 1 + np.arange(9) / 2])  # 28 frames, 5 s
    windows = slide_seconds(times, 1.0, 1.0)
    assert spans(windows) == [(0, 20), (20, 22), (22, 24), (24, 26), (26, 28)]
    assert [(w.begin_s, w.end_s) for w in windows] == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]
    assert spans(slide_seconds(times, 2.0, 1.5)) == [(0, 22), (21, 25), (24, 28)]
    assert spans(slide_seconds(times, 0.25, 1.25))[1:] == [(20, 21), (23, 24), (25, 26), (27, 28)]  # shown, none begins
    assert slide_seconds(times, 9.0, 1.0) == [Window(0, 28, 0.0, 5.0)]
    assert spans(slide(times, 10, 2.0)) == [(0, 10), (18, 28)]  # dense: a clip from the frame that is shown then on


def write_slowing_video(file: Path) -> None:
    """20 frames in the first second, 20 in the ten seconds after it; the colour changes with the rate."""
    import av

    with av.open(str(file), "w") as container:
        stream = container.add_stream("ffv1", rate=20)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "bgr0"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for number in range(40):
            picture = np.full((16, 32, 3), 250 if number < 20 else 5, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = 50 * number if number < 20 else 1000 + 500 * (number - 20), Fraction(1, 1000)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def test_a_variable_rate_is_cut_by_time(trained, tmp_path) -> None:
    one, file = trained(), tmp_path / "slowing.mkv"
    write_slowing_video(file)
    found = Predictor(one.run, every_s=1.0).predict(file)
    assert np.allclose(found.begins_s, range(11), atol=0.01) or np.allclose(found.begins_s[:10], range(10), atol=0.01)
    fast, slow = found.probabilities[0], found.probabilities[2:]
    assert np.allclose(slow, slow[0], atol=1e-6) and np.abs(slow[0] - fast).max() > 1e-3  # one colour in each window


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_a_video_is_answered_as_in_the_test(trained, average) -> None:
    one = trained(test__average=average)
    records, predictor = read_records(Path(evaluate_run(one.run)["folder"])), Predictor(one.run)
    for number, record in records.items():
        found, scores = predictor.predict(one.file(number)), np.array(record["scores"])
        expected = scores if average == "probabilities" else np.exp(scores) / np.exp(scores).sum()
        assert found.probabilities.shape == (1, 3) and np.allclose(found.probabilities[0], expected, atol=1e-6)
        assert found.ends_s == pytest.approx([(12 + number) / 10])
        names = [name for name, _ in found.overall(2)]
        assert names == [["clap", "jump", "wave"][k] for k in np.argsort(-expected)[:2]]


@pytest.mark.parametrize("piece_bytes", [1, 7 * 4 * 16 * 28 * 3, 1 << 30])
def test_a_long_video_by_windows_in_pieces(trained, long_video, monkeypatch, piece_bytes) -> None:
    """Dense: windows of a clip (7 frames), each equal to that part of the video as a video of its own."""
    one, (file, frames) = trained(data__sampling="dense"), long_video
    read, asked = windows.read_item, []

    def count(item, choose, *more):
        pixels = read(item, choose, *more)
        asked.append(len(pixels))
        return pixels

    monkeypatch.setattr(windows, "read_item", count)
    monkeypatch.setattr(predict, "PIECE_BYTES", piece_bytes)
    found = Predictor(one.run).predict(file)
    assert max(asked) == {1: 4, 1 << 30: 60}.get(piece_bytes, 28) and sum(asked) == 1 + 15 * 4
    starts = [*range(0, 94, 7), 93]
    assert np.allclose(found.begins_s, np.array(starts) / 10) and np.allclose(found.ends_s - found.begins_s, 0.7)
    for number in (0, 4, 14):
        part = file.with_name(f"{number}.mkv")
        write_video(part, frames[starts[number] : starts[number] + 7], 10)
        alone = Predictor(one.run).predict(part).probabilities
        assert alone.shape == (1, 3) and np.allclose(alone[0], found.probabilities[number], atol=1e-6)
    assert found.overall(3)[0][1] == pytest.approx(found.probabilities.mean(0).max())


def test_windows_that_are_asked_for(trained, long_video) -> None:
    one, (file, _) = trained(), long_video
    assert len(Predictor(one.run).predict(file).begins_s) == 1  # segments: the whole video
    found = Predictor(one.run, every_s=2.0).predict(file)
    assert found.begins_s == pytest.approx([0, 2, 4, 6, 8]) and found.ends_s == pytest.approx([2, 4, 6, 8, 10])
    found = Predictor(one.run, window_s=4.0, every_s=3.0).predict(file)
    assert found.begins_s == pytest.approx([0, 3, 6]) and found.ends_s == pytest.approx([4, 7, 10])


def test_a_file_that_breaks_off_gives_the_windows_before(trained, long_video, monkeypatch, caplog) -> None:
    one, (file, frames) = trained(data__sampling="dense"), long_video
    asked = []

    def break_off(item, choose, *more):
        asked.append(len(asked))
        return frames[choose(100 if len(asked) == 1 else 30)]

    monkeypatch.setattr(windows, "read_item", break_off)
    found = Predictor(one.run).predict(file)
    assert found.begins_s == pytest.approx([0, 0.7, 1.4, 2.1, 2.8]) and "is cut off after 30 frames" in caplog.text


def answers(out: str) -> list[str]:
    """Return what a command printed, without its log."""
    return [line for line in out.splitlines() if not re.match(r"\d\d:\d\d:\d\d ", line)]


def test_command_line_names_bad_files_and_goes_on(trained, long_video, tmp_path, capsys) -> None:
    one, (file, _) = trained(), long_video
    (tmp_path / "empty.mp4").write_bytes(b"")
    words = ["predict", str(one.run), str(one.file(0)), str(tmp_path / "empty.mp4"), "none.mp4", str(file)]
    assert main([*words, "--top", "2", "--every-s", "1", "--out", str(tmp_path / "out")]) == 1
    out, err = capsys.readouterr()
    *lines, following = answers(out)
    assert following.startswith(f"Next: hpm-video test {one.run}, with labelled videos; hpm-video export ")
    assert [line.split(": ")[0] for line in lines[::2]] == [str(one.file(0)), str(file)]
    assert lines[2].count("; ") == 1
    written = tmp_path / "out" / "long.mkv.json", tmp_path / "out" / "long.mkv.png"
    assert lines[3] == f"  mean of 10 windows of 1 s; wrote {written[0]}, {written[1]}"
    assert err.splitlines() == [
        f"error: {tmp_path / 'empty.mp4'}: file is empty (0 bytes)",
        "error: none.mp4: no such file",
    ]
    assert {f.name for f in (tmp_path / "out").iterdir() if not f.name.startswith(".")} == {
        "0.mkv.json",
        "0.mkv.png",
        "long.mkv.json",
        "long.mkv.png",
    }
    told = json.loads((tmp_path / "out" / "long.mkv.json").read_text())
    assert len(told["windows"]) == 10 and told["windows"][9]["end_s"] == pytest.approx(10)
    for window in told["windows"]:
        assert len(window["classes"]) == 2 and 0 < sum(window["classes"].values()) <= 1 + 1e-6
    assert main(["predict", str(one.run), str(one.file(0))]) == 0
    assert (one.run / "predictions" / "0.mkv.json").is_file()


def test_the_data_set_of_the_run_may_be_gone(trained, tmp_path) -> None:
    """How it is sampled is known from a test of the run; never tested, the user is asked."""
    one = trained()
    video = tmp_path / "kept.mkv"
    video.write_bytes(one.file(0).read_bytes())
    before = Predictor(one.run).predict(video).probabilities
    one.root.rename(tmp_path / "gone")
    with pytest.raises(UserError, match="expected data.sampling, test.num_clips and test.num_crops in .*config.yaml"):
        Predictor(one.run)
    (tmp_path / "gone").rename(one.root)
    evaluate_run(one.run)
    one.root.rename(tmp_path / "gone")
    assert np.array_equal(Predictor(one.run).predict(video).probabilities, before)


def test_a_folder_is_its_videos_or_one_sample_of_frames(trained, tmp_path, capsys) -> None:
    from PIL import Image

    one = trained(num_videos=3)
    for name in ("frames/a", "frames/b"):
        (tmp_path / name).mkdir(parents=True)
        for number in range(5):
            Image.fromarray(np.full((16, 28, 3), 40 * number, np.uint8)).save(tmp_path / name / f"{number}.png")
    assert list_samples([one.root, one.file(0)]) == [one.file(number) for number in range(3)]
    assert list_samples([tmp_path / "frames" / "a"]) == [tmp_path / "frames" / "a"]
    assert list_samples([tmp_path / "frames"]) == [tmp_path / "frames" / "a", tmp_path / "frames" / "b"]
    assert main(["predict", str(one.run), str(one.root), str(tmp_path / "frames"), "--top", "1"]) == 0
    assert len(answers(capsys.readouterr().out)) == 2 * 5 + 1
    (tmp_path / "none").mkdir()
    assert main(["predict", str(one.run), str(tmp_path / "none")]) == 1
    assert f"{tmp_path / 'none'}: holds neither videos nor frames; expected" in capsys.readouterr().err
