"""Check data.root: its splits, lists in it that are not used, and what is wrong with a root that cannot be read."""

import difflib
import logging
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from hpm_video.catalog.columns import find_split
from hpm_video.catalog.kinds import LIST_ENDINGS, kind_of_file
from hpm_video.catalog.listing import IMAGE_SUFFIXES, SUFFIXES, split_folders
from hpm_video.catalog.texts import is_utf8
from hpm_video.errors import UserError
from hpm_video.terminal import one_line

log = logging.getLogger("hpm_video")
LIST_WORDS = {"validation": r"(?<![a-z])(val|valid|validation|dev)(?![a-z])", "test": r"(?<![a-z])test(ing)?(?![a-z])"}
MOST_SPLIT_FOLDERS = 6  # in a folder
ANNOTATION_WORDS = r"train|val|test|label|annot|meta|list|split|class"


def check_root(root: Path) -> None:
    """Raise UserError if data.root does not exist or is not a folder; the message says what to do."""
    if os.path.isdir(root):
        return
    if not os.path.exists(root):
        near = _find_near(root)
        hint = f"; did you mean {near}?" if near else ""
        raise UserError(f"data.root: {one_line(str(root))} does not exist{hint}; expected a folder of videos")
    raise UserError(f"data.root: {root} is a file{tell_file(root)}")


def check_annotations(given: Path, root: Path) -> None:
    """Raise UserError if data.annotations is not a folder. For a list of paths the message names the recipe."""
    if os.path.isdir(given):
        return
    if not os.path.exists(given):
        raise UserError(
            f"data.annotations: {given} does not exist; expected the folder of a manifest or of SSv2's files"
        )
    raise UserError(
        f"data.annotations: {given} is a file; expected the folder of a manifest or of SSv2's files. A list of paths becomes "
        f"a manifest by: {csv_command(root, {'train': given})}"
    )


def csv_command(root: Path, lists: dict[str, Path]) -> str:
    """Return the command that makes a manifest from lists."""
    words = " ".join(f"--{split} {shlex.quote(str(file))}" for split, file in lists.items())
    return f"hpm-video data csv {shlex.quote(str(root))} {words}"


def _find_near(root: Path) -> str:
    parent = root.parent
    try:
        names = [name for name in os.listdir(parent) if is_utf8(name) and (parent / name).is_dir()][:1000]
    except OSError:
        return ""
    near = difflib.get_close_matches(root.name, names, n=1)
    return str(parent / near[0]) if near else ""


def tell_file(file: Path) -> str:
    """Return, for a message, what kind of file this is and what to give instead."""
    folder = shlex.quote(str(file.parent))
    if file.name in ("manifest.json", "shards.json", "labels.json"):
        return f"; expected the folder that holds it: data.root={folder}"
    kind = kind_of_file(file)
    if kind in ("a video", "an image"):
        return f" ({kind}); expected the folder that holds the videos: data.root={folder}"
    if "archive" in kind:
        return f" ({kind}); expected a folder: unpack it (tar xf FILE -C FOLDER, unzip FILE -d FOLDER), and give that folder"
    if not kind and file.suffix.lower() in LIST_ENDINGS:
        return (
            f" (a list); expected a folder. Make a manifest of the list: {csv_command(file.parent, {'train': file})}, then "
            f"data.root={shlex.quote(str(file.parent / 'manifest'))}"
        )
    if kind == "a YAML file":
        return (
            f" (a YAML file); expected the folder that holds the videos (a configuration is given as --config {file})"
        )
    return f"{f' ({kind})' if kind else ''}; expected the folder that holds the videos"


def kind_of_names(names: Sequence[str]) -> str:
    """Return 'videos' or 'images' if all paths are, else 'samples' (mixed, or folders of frames)."""
    for kind, suffixes in (("videos", SUFFIXES), ("images", IMAGE_SUFFIXES)):
        if all(name.lower().endswith(suffixes) for name in names):
            return kind
    return "samples"


def find_splits(root: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    """Return split -> folder for splits with files; empty unless there is train/ and a folder of another split."""
    folders = split_folders(root)
    if len(folders) < 2:
        return {}
    return {split: name for split, name in folders.items() if split == "train" or holds_any(root / name, suffixes)}


def holds_any(folder: Path, suffixes: tuple[str, ...]) -> bool:
    """Return whether a folder or a subfolder holds a file with one of these suffixes."""
    return any(
        name.lower().endswith(suffixes) and not name.startswith(".")
        for _, _, names in os.walk(folder, followlinks=False)
        for name in names
    )


def tell_use(root: Path, folders: dict[str, str], all_is_meant: bool) -> None:
    """Log what is used in a folder and what is not. folders: from `find_splits`. all_is_meant: the user asked for every file."""
    if folders:
        _tell_splits(root, folders)
    elif not all_is_meant:
        _tell_similar(root)
    _tell_lists(root, [root, *(root / folder for folder in folders.values())])


def _tell_splits(root: Path, folders: dict[str, str]) -> None:
    parts = ", ".join(f"{name}/ is the {split} split" for split, name in folders.items())
    others = [one_line(name) for name in _folders_in(root) if name not in folders.values()][:3]
    unused = f"; {', '.join(others)} beside them is not used" if others else ""
    log.info("data.root: %s: %s%s (data.format=folder trains on all of it)", root, parts, unused)


def _folders_in(root: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))


def find_similar(names: Sequence[str]) -> list[str]:
    """Return the folders among these that look like splits under other names, such as videos_train and videos_val; the one for
    training first. [] if there is none, or so many folders that they may be classes."""
    found = {split: name for name in sorted(names, reverse=True) if (split := find_split(name))}
    if len(names) > MOST_SPLIT_FOLDERS or "train" not in found or len(found) < 2:
        return []
    return [found[split] for split in ("train", "validation", "test") if split in found]


def _tell_similar(root: Path) -> None:
    """Warn of folders that look like splits, but are not named train/ and val/: all of their files are trained on."""
    names = _folders_in(root)
    if len(names) > MOST_SPLIT_FOLDERS:
        return
    similar = find_similar(names)
    others = [f"{one_line(name)}/" for name in similar[1:] if holds_any(root / name, SUFFIXES + IMAGE_SUFFIXES)]
    if others:
        log.warning(
            "data.root: %s: every file is a training sample, those in %s too. To leave them out: data.root=%s. Folders that "
            "are named train/ and val/ (links are enough) are used as splits",
            root,
            " and ".join(others),
            shlex.quote(str(root / similar[0])),
        )
    inner = [name for name in names if _holds_splits(root / name)]
    if inner:
        log.warning(
            "data.root: %s: every file is a training sample, those of all splits in %s/ too. To use the splits: data.root=%s",
            root,
            one_line(inner[0]),
            shlex.quote(str(root / inner[0])),
        )


def _holds_splits(folder: Path) -> bool:
    """Return whether a folder has splits. It is only looked at for a warning, so nothing in it is an error."""
    try:
        return bool(find_splits(folder, SUFFIXES + IMAGE_SUFFIXES))
    except UserError:  # two folders for one split
        return True
    except OSError:  # it may not be read, as lost+found
        return False


def _tell_lists(root: Path, folders: list[Path]) -> None:
    """Warn of lists and manifests in the folder that are not used."""
    if (root / "manifest" / "manifest.json").is_file():
        log.warning(
            "data.root: %s/manifest is a manifest, which is not used here; data.root=%s/manifest uses it", root, root
        )
        return
    lists = [folder / name for folder in folders for name in sorted(_list_names(folder))]
    if not lists:
        return
    parts: dict[str, Path] = {}
    for file in lists:
        split = next((s for s, words in LIST_WORDS.items() if re.search(words, file.stem.lower())), "train")
        parts.setdefault(split, file)
    parts = {split: parts[split] for split in ("train", "validation", "test") if split in parts}
    if "train" not in parts:
        return
    some = ", ".join(one_line(str(file.relative_to(root))) for file in lists[:4]) + (", ..." if len(lists) > 4 else "")
    held = ", including those of the validation and test lists" if len(parts) > 1 and len(folders) == 1 else ""
    log.warning(
        "data.root: %s holds lists that are not used (%s): every file is a training sample without label%s. To use them: "
        "%s, then data.root=%s",
        root,
        some,
        held,
        csv_command(root, parts),
        shlex.quote(str(root / "manifest")),
    )


def _list_names(folder: Path) -> list[str]:
    return [
        name
        for name in os.listdir(folder)
        if name.lower().endswith(LIST_ENDINGS)
        and not name.startswith(".")
        and re.search(ANNOTATION_WORDS, name.lower()) is not None
        and (folder / name).is_file()
    ]
