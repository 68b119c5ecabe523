"""Every source keeps what the protocol promises, and nothing asks which kind it is."""

import ast
from pathlib import Path

import pytest

import hpm_video
from hpm_video.catalog.rows import Row
from hpm_video.config import DataConfig
from hpm_video.config.data_sets import SamplingProtocol
from hpm_video.data.manifest import write_manifest
from hpm_video.data.source import Source, check_paths, open_source
from hpm_video.preprocess.pack import pack
from hpm_video.types import UserError

OWN = SamplingProtocol("dense", 7, 1)


@pytest.fixture(params=["manifest", "shards"])
def source(request, tmp_path) -> Source:
    rows = [Row(f"{n}.mp4", n % 2, group=f"g{n}") for n in range(8)]
    for row in rows:
        (tmp_path / row.path).write_bytes(row.path.encode())
    write_manifest(tmp_path / "m", "pond", tmp_path, {"train": rows}, ["a", "b"], left_right=True, protocol=OWN)
    config = DataConfig(root=str(tmp_path / "m"))
    if request.param == "shards":
        pack(config, str(tmp_path / "tars"), samples_per_shard=3)
        config = DataConfig(root=str(tmp_path / "tars"))
    found = open_source(config, "train")
    assert found is not None
    return found


def test_what_the_protocol_promises(source, tmp_path) -> None:
    assert isinstance(source, Source) and len(source) == 8
    assert (source.set_name, source.left_right, source.protocol, source.classes) == ("pond", True, OWN, ["a", "b"])
    assert sorted(source.name(row) for row in range(8)) == [f"{n}.mp4" for n in range(8)]
    assert {source.item(row).label for row in range(8)} == {0, 1} and len(source.groups([0, 1])) == 2
    assert all(source.describe(row) for row in range(8)) and len(source.version()) == 24
    rest, held = source.hold_out(2, seed=0)
    assert (len(rest), len(held)) == (6, 2) and isinstance(held, Source)
    if source.labels is None:
        assert source.fingerprint() is None and source.facts() == {} and source.kind == "samples"
    else:
        assert source.fingerprint() and set(source.facts()) == {"label", "first_frame", "frames"}
        assert source.kind == "videos" and source.groups([1]) == ["g1"]


def test_a_changed_file_changes_the_version(tmp_path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"1")
    source = open_source(DataConfig(root=str(tmp_path)), "train")
    before = source.version(), source.fingerprint()
    (tmp_path / "a.mp4").write_bytes(b"12")
    assert source.version() != before[0] and source.fingerprint() == before[1]


def test_a_path_that_leads_out_of_the_root(tmp_path) -> None:
    write_manifest(tmp_path, "x", tmp_path, {"train": [Row("a.mp4"), Row("../b.mp4")]}, [])
    with pytest.raises(UserError, match=r"train.csv, row 2: ../b.mp4 lies outside"):
        check_paths(open_source(DataConfig(root=str(tmp_path)), "train"))


def test_nothing_asks_which_kind_of_source_it_has() -> None:
    for file in Path(hpm_video.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
                asked = {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)}
                assert not asked & {"Manifest", "Shards"}, f"{file}, line {node.lineno}"
