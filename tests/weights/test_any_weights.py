"""Any file as init.weights: a model that starts from it, or one sentence. Never another exception, a hang or gigabytes."""

import json
import os
import pickle
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from hpm_video.config import load_config, load_finetune_config
from hpm_video.models.classifier import Classifier
from hpm_video.models.student import Student
from hpm_video.types import UserError
from hpm_video.weights.convert_out import to_videomae
from hpm_video.weights.load import export_encoder
from hpm_video.weights.read import read_weights
from hpm_video.weights.transfer import fill_encoder, fill_student

QUICK: Any = {"derandomize": True, "deadline": None, "suppress_health_check": list(HealthCheck), "database": None}
TINY = (
    "data.root=x train.output=y data.num_frames=4 data.frame_size_px=[16,16] model.patch_px=8 model.width=16 model.depth=2 "
    "model.num_heads=2 model.decoder_width=8 model.decoder_heads=1 model.decoder_depth=1 mask.ratio=0.5 "
    "preset=hpm_teacher"
).split()
BEYOND_GIB = 1.0  # more than this in one of these files' reading is a bomb that went off


def load(path: Path) -> str:
    """Start a classifier and a student from the file; what was said, or the sentence that refuses it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        weights = read_weights(path)
        tuned = load_finetune_config(None, TINY[:2], weights.settings())
        if tuned.model.width != 16 or tuned.model.depth != 2:
            return "a model of another size"
        said = fill_encoder(Classifier.of(tuned, 3), weights, ["a", "b", "c"])
        config = load_config(None, TINY, weights.settings(pretraining=True))
        said += fill_student(Student.of(config), weights, "norm_channel")
    except UserError as error:
        said = str(error)
        assert 0 < len(said) < 3000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < BEYOND_GIB * 2**20
    return said


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, Any]:
    """Tensors as this program and as VideoMAE name them, and a folder with an exported encoder."""
    config = load_config(overrides=TINY)
    torch.manual_seed(0)
    student = Student.of(config)
    folder = tmp_path_factory.mktemp("weights")
    encoder = {name: parameter.detach() for name, parameter in student.encoder.named_parameters()}
    export_encoder(folder, encoder, config, {"step": 1})
    return {"own": encoder, "videomae": to_videomae(student, student.encoder), "folder": folder}


def test_both_sources_load(sources, tmp_path) -> None:
    save_file(sources["videomae"], tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"num_frames": 4, "image_size": 16, "num_attention_heads": 2}))
    assert "tensors loaded" in load(tmp_path) and "tensors loaded" in load(sources["folder"])


# bytes: cut, flipped, put in

edits = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from(["cut", "flip", "insert"]), st.binary(min_size=1, max_size=9)),
    max_size=3,
)


def edit(content: bytes, changes: list[tuple[float, str, bytes]], most: int) -> bytes:
    """`most`: of the places of the changes; the header of a file is in its first bytes."""
    for share, how, new in changes:
        place = int(share * min(len(content), most))
        content = content[:place] + (
            b"" if how == "cut" else new + content[place + (len(new) if how == "flip" else 0) :]
        )
    return content


def check_bytes(sources: dict[str, Any], tmp_path_factory: Any, kind: str, changes: list, near: bool) -> None:
    folder = tmp_path_factory.getbasetemp() / "bytes"
    folder.mkdir(exist_ok=True)
    file = folder / ("encoder.safetensors" if kind == "own" else "model.pth" if kind == "pth" else "model.safetensors")
    for old in folder.iterdir():
        old.unlink()
    if kind == "own":
        (folder / "encoder.json").write_bytes((sources["folder"] / "encoder.json").read_bytes())
    if kind == "pth":
        torch.save({"model": sources["videomae"]}, file)
        content = file.read_bytes()
    else:
        content = save(sources[kind])
    file.write_bytes(edit(content, changes, 3000 if near else len(content)))
    load(file)


bytes_of = given(kind=st.sampled_from(["own", "videomae", "pth"]), changes=edits, near=st.booleans())


@settings(max_examples=30, **QUICK)
@bytes_of
def test_changed_bytes(sources, tmp_path_factory, kind: str, changes: list, near: bool) -> None:
    check_bytes(sources, tmp_path_factory, kind, changes, near)


@pytest.mark.slow
@settings(max_examples=5000, **QUICK)
@bytes_of
def test_many_changed_bytes(sources, tmp_path_factory, kind: str, changes: list, near: bool) -> None:
    check_bytes(sources, tmp_path_factory, kind, changes, near)


# tensors: of another type, shape or name

CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "int": lambda t: t.long(),
    "bool": lambda t: t > 0,
    "fp8": lambda t: t.to(torch.float8_e4m3fn),
    "half": lambda t: t.half(),
    "complex": lambda t: t.to(torch.complex64),
    "scalar": lambda t: t.flatten()[0].clone() if t.numel() else t,
    "flat": lambda t: t.flatten(),
    "deeper": lambda t: t[None],
    "deepest": lambda t: t[None, None, None],
    "one row less": lambda t: t[1:].clone() if t.ndim else t,
    "one column less": lambda t: t[..., :-1].contiguous() if t.ndim else t,
    "twice": lambda t: torch.cat([t, t]) if t.ndim else t,
    "nan": lambda t: torch.full_like(t, float("nan")),
    "empty": lambda t: t[:0] if t.ndim else t,
    "turned": lambda t: t.transpose(0, -1).contiguous() if t.ndim else t,
}
NAMES = [
    "",
    "\n",
    "encoder.blocks.9.norm1.weight",
    "blocks.99999999999.norm1.weight",
    "pos_embed",
    "é\ud7ff",
    "module.x",
    "cls_token",
]
NAMES += [
    "pos_embed_spatial",
    "pos_embed_temporal",
    "decoder_pos_embed",
    "head.weight",
    "project.bias",
    "pos_embed_class",
]
steps = st.lists(
    st.tuples(st.integers(0, 200), st.sampled_from([*CHANGES, "gone", "renamed"]), st.sampled_from(NAMES)),
    min_size=1,
    max_size=3,
)


def check_tensors(sources: dict[str, Any], tmp_path_factory: Any, kind: str, changes: list) -> None:
    folder = tmp_path_factory.getbasetemp() / "tensors"
    folder.mkdir(exist_ok=True)
    tensors = dict(sources[kind])
    for number, how, name in changes:
        chosen = list(tensors)[number % len(tensors)]
        tensor = tensors[chosen] if how == "renamed" else tensors.pop(chosen)
        if how == "renamed":
            tensors[name] = tensor.clone()
        elif how != "gone":
            tensors[chosen] = CHANGES[how](tensor)
    file = folder / ("encoder.safetensors" if kind == "own" else "model.safetensors")
    (folder / "encoder.json").write_bytes((sources["folder"] / "encoder.json").read_bytes())
    save_file(tensors, file)
    load(file)


tensors_of = given(kind=st.sampled_from(["own", "videomae"]), changes=steps)


@settings(max_examples=30, **QUICK)
@tensors_of
def test_changed_tensors(sources, tmp_path_factory, kind: str, changes: list) -> None:
    check_tensors(sources, tmp_path_factory, kind, changes)


@pytest.mark.slow
@settings(max_examples=5000, **QUICK)
@tensors_of
def test_many_changed_tensors(sources, tmp_path_factory, kind: str, changes: list) -> None:
    check_tensors(sources, tmp_path_factory, kind, changes)


# files that are hard on their readers


def circle() -> Any:
    held: dict[str, Any] = {}
    held["model"] = held
    return held


def long_name() -> Any:
    name: Any = ("x",)
    for _ in range(14):
        name = (name, name)  # 2 ** 14 letters when written out
    return {name: 1}


def pack(file: Path, content: Any) -> None:
    """As torch.save, compressed: a file of kilobytes that unpacks to many more."""
    torch.save(content, file)
    with zipfile.ZipFile(file) as old:
        entries = {entry.filename: old.read(entry) for entry in old.infolist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in entries.items():
            new.writestr(name, data)


def header(length: int, text: bytes = b"{}") -> bytes:
    return length.to_bytes(8, "little") + text


ENTRY = b'{"a":{"dtype":"%s","shape":%s,"data_offsets":[0,%d]}}'
HUGE = ENTRY % (b"F32", b"[1000000,1000000]", 4 * 10**12)
HARD: dict[str, Callable[[Path], Any]] = {
    "header beyond the file": lambda file: file.write_bytes(header(1000)),
    "huge header": lambda file: file.write_bytes(header(2**62)),
    "huge shape": lambda file: file.write_bytes(header(len(HUGE), HUGE)),
    "overflowing shape": lambda file: file.write_bytes(
        header(60, (ENTRY % (b"F32", b"[99999999999,99999999999]", 4)).ljust(60))
    ),
    "unknown type": lambda file: file.write_bytes(header(60, (ENTRY % (b"Q9", b"[1]", 4)).ljust(60)) + b"\0" * 4),
    "deep header": lambda file: file.write_bytes(header(200_000, b'{"a":' + b"[" * 199_995)),
    "nothing": lambda file: file.write_bytes(b""),
    "one byte": lambda file: file.write_bytes(b"\x80"),
    "zeros": lambda file: file.write_bytes(bytes(5000)),
    "page": lambda file: file.write_text("<!DOCTYPE html><html>404</html>"),
    "JSON": lambda file: file.write_text('{"model": [1, 2]}'),
    "folder": lambda file: file.mkdir(),
    "pipe": lambda file: os.mkfifo(file),
    "circle": lambda file: torch.save(circle(), file),
    "long name": lambda file: torch.save(long_name(), file),
    "not named": lambda file: torch.save([torch.zeros(3)], file),
    "repeated view": lambda file: torch.save({"blocks.0.norm1.weight": torch.zeros(1).expand(10**7, 10**4)}, file),
    "sparse": lambda file: torch.save({"a": torch.eye(9).to_sparse()}, file),
    "no memory behind it": lambda file: torch.save({"a": torch.empty(10**7, 10**4, device="meta")}, file),
    "packed": lambda file: pack(file, {"a": torch.zeros(10**7)}),
    "old pickle": lambda file: torch.save({"a": torch.zeros(3)}, file, _use_new_zipfile_serialization=False),
    "calls something": lambda file: file.write_bytes(pickle.dumps(print, protocol=2)),
    "zip of other things": lambda file: zipfile.ZipFile(file, "w").writestr("a/data.pkl", b"x") or None,
    "cut zip": lambda file: file.write_bytes(b"PK\x03\x04" + bytes(3000)),
}


@pytest.mark.parametrize("name", HARD)
def test_hard_file(tmp_path, name: str) -> None:
    HARD[name](tmp_path / "weights.pth")
    assert "tensors loaded" not in load(tmp_path / "weights.pth")


CONFIGS: list[Any] = [
    *({}, [], None, {"config": None}, {"config": {}}, {"config": {"model": 3, "data": []}}),
    *(
        {"model": {"patch_px": 0}},
        {"model": {"patch_px": "x"}},
        {"data": {"num_frames": 10**12}},
        {"data": {"frame_size_px": []}},
    ),
    *(
        {"model": {"positions": None}},
        {"model": {"positions": "${oc.env:HOME}"}},
        {"model": {"position_grid": [10**6] * 3}},
    ),
    *(
        {"data": {"mean": "${oc.env:HOME}"}},
        {"model": {"width": 10**9}},
        {"model": {"cls_token": "yes"}},
        {"objective": 3},
    ),
]


@pytest.mark.parametrize("change", CONFIGS, ids=str)
def test_encoder_json_of_nonsense(sources, tmp_path, change: Any) -> None:
    whole = json.loads((sources["folder"] / "encoder.json").read_text())
    if isinstance(change, dict) and change and "config" not in change:
        for section, keys in change.items():
            whole["config"][section] = whole["config"][section] | keys if isinstance(keys, dict) else keys
        change = whole
    (tmp_path / "encoder.json").write_text(json.dumps(change))
    (tmp_path / "encoder.safetensors").write_bytes((sources["folder"] / "encoder.safetensors").read_bytes())
    said = load(tmp_path / "encoder.safetensors")
    assert os.environ.get("HOME", "/root") not in said.replace(str(tmp_path), "")


@pytest.mark.parametrize(
    "content",
    [
        '{"num_frames": "x"}',
        '{"num_frames": 0}',
        '{"image_size": [0, -1]}',
        '{"image_size": {}}',
        '{"id2label": {"a": "b"}}',
    ]
    + [
        '{"id2label": [1]}',
        '{"pretrained_cfg": 3}',
        '{"pretrained_cfg": {"input_size": 3, "mean": "x"}}',
        "[1]",
        "[" * 100_000,
    ]
    + ['{"num_attention_heads": 0}', '{"num_attention_heads": 99999999999}', '{"num_frames": 1e999}'],
    ids=lambda text: text[:40],
)
def test_config_json_of_nonsense(sources, tmp_path, content: str) -> None:
    save_file(sources["videomae"], tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": "x", "image_std": [[1]]}')
    load(tmp_path)
