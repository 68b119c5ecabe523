"""The schema for editors: every key, and the values that a configuration takes and refuses."""

from pathlib import Path

import pytest
import yaml

from hpm_video.config import FinetuneConfig, PretrainConfig
from hpm_video.config.json_schema import json_schema
from hpm_video.config.schema import all_fields

jsonschema = pytest.importorskip("jsonschema")
ROOT = Path(__file__).parents[2]
SCHEMAS = {"pretrain": json_schema(PretrainConfig), "finetune": json_schema(FinetuneConfig)}


@pytest.mark.parametrize("job", SCHEMAS)
def test_it_is_a_schema_that_our_files_meet(job) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[job])
    for file in (ROOT / "configs" / job).glob("*.yaml"):
        jsonschema.validate(yaml.safe_load(file.read_text()), SCHEMAS[job])


def test_every_key_is_described() -> None:
    for name, _ in all_fields(PretrainConfig):
        section, leaf = name.split(".")
        assert SCHEMAS["pretrain"]["properties"][section]["properties"][leaf]["description"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"mask": {"ratio": 2}},
        {"mask": {"mode": "hard"}},
        {"mask": {"rate": 0.9}},
        {"masks": {}},
        {"data": {"frame_size_px": [32]}},
        {"optim": {"batch_size": "64"}},
        {"data": {"num_workers": "many"}},
        {"preset": "none_such"},
    ],
    ids=str,
)
def test_it_refuses_what_a_run_refuses(wrong) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, SCHEMAS["pretrain"])


def test_a_number_or_a_word() -> None:
    for value in (3, "auto"):
        jsonschema.validate({"data": {"num_workers": value}}, SCHEMAS["pretrain"])
    jsonschema.validate({"mask": {"sharpness": None}, "data": None}, SCHEMAS["pretrain"])


def test_presets_are_for_pretraining() -> None:
    for presets in ("hpm", ["hpm", "tiny"]):
        jsonschema.validate({"preset": presets}, SCHEMAS["pretrain"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"preset": "hpm"}, SCHEMAS["finetune"])
