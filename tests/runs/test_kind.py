"""The kind of a run: by its folder, by its configuration, and by a folder from before there were marks."""

from pathlib import Path

import pytest

from hpm_video.config import load_config, load_finetune_config, to_yaml
from hpm_video.errors import UserError
from hpm_video.runs.kind import check_finished, check_run, find_kind, find_older_kind, kind_of

NEEDED = ["data.root=x", "train.output=y"]


@pytest.mark.parametrize(("load", "kind"), [(load_config, "pretrain"), (load_finetune_config, "finetune")])
def test_folder_and_configuration_agree(tmp_path, load, kind) -> None:
    config = load(overrides=NEEDED)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert kind_of(config) == find_kind(tmp_path) == kind
    assert find_older_kind(tmp_path) is None  # nothing was trained there
    (tmp_path / "metrics.jsonl").touch()
    assert find_older_kind(tmp_path) == kind
    check_run(tmp_path, kind)
    with pytest.raises(UserError, match="is a .* run; expected the folder of a .* run. Try: hpm-video "):
        check_run(tmp_path, {"pretrain": "finetune", "finetune": "pretrain"}[kind])
    with pytest.raises(UserError, match="has not finished. Rerun the command that started it"):
        check_finished(tmp_path)


def test_a_foreign_folder_is_no_run(tmp_path) -> None:
    for text in ("a: 1", "[1, 2]", "!tag x", "data: {}"):
        (tmp_path / "config.yaml").write_text(text)
        (tmp_path / "metrics.jsonl").touch()
        assert find_older_kind(tmp_path) is None
    for path, told in ((tmp_path / "x", "lies in a run folder"), (Path("/nowhere"), "does not exist")):
        with pytest.raises(UserError, match=told):
            find_kind(path)
