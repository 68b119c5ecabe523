"""Use a run and check data from Python: the functions behind `hpm-video predict`, `export` and `scan`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from hpm_video.api.shown import showing
from hpm_video.files import expand_home
from hpm_video.runs.kind import check_run
from hpm_video.weights.exporters import DEFAULT, EXPORTERS


def predict(
    run: str | Path,
    videos: str | Path | Iterable[str | Path],
    *,
    window_s: float | None = None,
    every_s: float | None = None,
) -> list[Any]:
    """Classify videos with a fine-tuned run: `hv.load(run).predict(videos)`. Writes nothing. Raises UserError.

    >>> (found,) = hv.predict("runs/tuned", "videos/a.mkv")
    >>> len(found.overall(2))
    2
    """
    from hpm_video.api.model import load

    check_run(_path(run), "finetune")
    return load(run).predict(videos, window_s=window_s, every_s=every_s)


def export(run: str | Path, to: str = DEFAULT, out: str | Path | None = None) -> Path:
    """Write the model of a run for another library and check it, as `hpm-video export` does. Raises UserError.

    Return the folder, or for safetensors the file in the run. to: safetensors, hf, timm, onnx or videomae. out: the folder;
    None = RUN/TO.

    >>> hv.export("runs/mine", to="videomae")
    PosixPath('runs/mine/videomae')
    """
    check_run(_path(run))
    from hpm_video.weights.export import export as write

    written = write(_path(run), to, None if out is None else _path(out))
    if EXPORTERS[to].in_run:
        return Path(written)
    return _path(run) / to if out is None else _path(out)


class Scan(NamedTuple):
    """The result of `scan`: a folder that serves as data.root with the good files, and the summary as text.

    >>> found = hv.Scan(Path("scan_videos"), "2 files")
    >>> found.folder.name
    'scan_videos'
    """

    folder: Path
    summary: str


def scan(  # noqa: PLR0913
    root: str | Path,
    out: str | Path | None = None,
    *,
    full: bool = False,
    images: bool = False,
    workers: int | None = None,
    time_limit_s: float = 60,
    progress: bool = False,
) -> Scan:
    """List the videos of a folder that cannot be read, and why, as `hpm-video scan` does. Raises UserError.

    out: folder for the results; None = ./scan_NAME. full: decode every frame. images: check pictures too. workers: processes;
    None = one for each core. time_limit_s: seconds after which a file is given up. progress: show the progress.

    >>> found = hv.scan("videos", "scanned", workers=1)
    >>> found.folder, "2 good, 0 bad" in found.summary
    (PosixPath('scanned'), True)
    """
    from hpm_video.cores import num_free_cores
    from hpm_video.preprocess.scan import scan as scan_folder

    folder = _path(root)
    target = Path(f"scan_{folder.resolve().name}") if out is None else _path(out)
    with showing(progress):
        return Scan(target, scan_folder(folder, target, full, images, workers or num_free_cores(), time_limit_s))


def _path(path: str | Path) -> Path:
    return Path(expand_home(str(path)))
