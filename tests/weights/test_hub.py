"""Names of the hub: fetched from a server of the test's own, and faults in plain words. Nothing leaves this machine."""

import hashlib
import json
import re
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hpm_video.cli import main
from hpm_video.config.run_sections import InitConfig
from hpm_video.errors import UserError
from hpm_video.models.student import Student
from hpm_video.runs.checkpoints import Checkpoint, save_checkpoint
from hpm_video.weights.hub import fetch_model, is_on_hub
from hpm_video.weights.read import read_initial, weight_settings

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """The part of the hub that a download asks: what a revision holds, and its files."""

    files: dict[str, bytes] = {}
    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if "/api/models/org/name/" in self.path:
            held = [
                {"type": "file", "path": name, "rfilename": name, "size": len(b), "oid": hashlib.sha1(b).hexdigest()}
                for name, b in self.files.items()
            ]
            is_tree = "/tree/" in self.path
            self._answer(json.dumps(held if is_tree else {"id": "org/name", "sha": COMMIT, "siblings": held}).encode())
        elif self.path.rsplit("/", 1)[-1] in self.files and "/resolve/" in self.path:
            self._answer(self.files[self.path.rsplit("/", 1)[-1]])
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    do_HEAD = do_GET

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_) -> None:
        """Print nothing."""


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[type[Hub]]:
    """A hub with org/name alone; the cache is in the folder of the test."""
    constants = pytest.importorskip("huggingface_hub.constants")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    Hub.files, Hub.asked = {}, []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Hub
    finally:
        server.shutdown()
        server.server_close()


def test_a_model_is_fetched_once(hub, capfd) -> None:
    hub.files = {"model.safetensors": b"weights", "config.json": b"{}", "README.md": b"no", "pytorch_model.bin": b"no"}
    folder = fetch_model("hf://org/name")
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    before = len(hub.asked)
    assert fetch_model("hf://org/name@main") == folder
    assert not [path for path in hub.asked[before:] if "resolve" in path]
    with pytest.raises(UserError, match="hf://org/other: cannot be fetched .*; expected a model that you may read"):
        fetch_model("hf://org/other")


def test_pickled_weights_only_if_there_are_no_others(hub) -> None:
    hub.files = {"pytorch_model.bin": b"weights", "config.json": b"{}"}
    assert sorted(file.name for file in fetch_model("hf://org/name").iterdir()) == ["config.json", "pytorch_model.bin"]


def test_faults(monkeypatch) -> None:
    assert is_on_hub("hf://a/b") and not is_on_hub("runs/hf")
    for name in ("hf://", "hf://name", "hf://a/b/c", "hf://../b", "hf://a/b@"):
        with pytest.raises(UserError, match="expected hf://ORG/NAME or hf://ORG/NAME@REVISION"):
            fetch_model(name)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        UserError,
        match="hf://org/name needs huggingface_hub, which cannot be imported .*Try: pip install huggingface_hub",
    ):
        fetch_model("hf://org/name")


def test_a_name_of_the_hub_is_a_model(tmp_path, make_run, monkeypatch) -> None:
    import hpm_video as hv

    run, _ = make_run()
    monkeypatch.setattr("hpm_video.api.model.fetch_model", lambda source: {"hf://org/name": run / "x"}[source].parent)
    (run / "config.yaml").unlink()  # as on the hub: weights and encoder.json
    assert hv.load("hf://org/name").width == 32 and not Path("hf:").exists()


def test_training_starts_from_a_name_of_the_hub(hub, make_run) -> None:
    run, _ = make_run()
    hub.files = {name: (run / name).read_bytes() for name in ("encoder.safetensors", "encoder.json")}
    init = InitConfig(weights="hf://org/name")
    settings = weight_settings(init)
    assert settings is not None and settings["model"]["width"] == 32
    found = read_initial(init).tensors
    own = load_file(run / "encoder.safetensors")
    assert own.keys() == found.keys() and all(torch.equal(p, found[n]) for n, p in own.items())


class Account:
    """The part of huggingface_hub's HfApi that a push asks."""

    asked: list[tuple] = []

    def create_repo(self, name: str, **options: Any) -> None:
        if name == "other/name":
            raise PermissionError("403\nForbidden")
        self.asked.append((name, options))

    def upload_folder(self, repo_id: str, folder_path: str, commit_message: str) -> str:
        self.asked.append((repo_id, sorted(file.name for file in Path(folder_path).iterdir())))
        return f"https://hub/{repo_id}"


def test_an_export_is_put_on_the_hub(make_run, monkeypatch, capsys) -> None:
    run, config = make_run()
    weights = dict(Student.of(config).named_parameters())
    save_checkpoint(run, Checkpoint(weights, None, {}, {"step": 1, "machine": {}}), keep=1)
    library = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(library, "HfApi", Account)
    monkeypatch.setattr(Account, "asked", [])
    words = ["export", str(run), "--to", "videomae", "--push"]
    assert main([*words, "org/name"]) == 0 and "uploaded to the hub: https://hub/org/name" in capsys.readouterr().out
    (_, options), (name, files) = Account.asked
    assert (
        options["private"]
        and options["exist_ok"]
        and name == "org/name"
        and {"README.md", "videomae.pth"} <= set(files)
    )
    for given, told in (("name", "expected ORG/NAME"), ("other/name", "403; .*|the upload failed")):
        assert main([*words, given]) == 1
        assert re.search(told, capsys.readouterr().err)
    assert main(["export", str(run), "--push", "org/name"]) == 1
    assert "expected --to hf, timm, videomae, onnx" in capsys.readouterr().err
    assert len(Account.asked) == 2
