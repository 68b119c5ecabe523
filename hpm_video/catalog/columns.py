"""Find the meaning of a list's columns from their names: path, label, split, or columns that cannot be used."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpm_video.catalog.listing import IMAGE_SUFFIXES, SUFFIXES
from hpm_video.errors import UserError

COLUMNS = {  # meaning -> names in headers, compared without case, blanks, - and _
    "path": (
        "path file filename filepath filenames files video videopath videofile videofilename videofilepath videos relpath relativepath fullpath "
        "clip clippath clipname clipfile folder framedir framesdir framefolder directory dir image imagepath imagefile imagename "
        "img imgpath media mediapath fname videoname vidname vname name vid videoid vidid clipid youtubeid ytid imageid id uid"
    ),
    "label": (
        "label labels class classes target targets labelname classname classlabel labelid labelidx labelindex labelnum classid "
        "classidx classindex classnum targetid targetname category categories categoryname categoryid categorylabel action "
        "actions actionname actionlabel actionclass actionid activity activities activityname activitylabel activityid gesture "
        "groundtruth gt y"
    ),
    "split": "split splits subset set partition phase usage splitname datasplit",
    "start": "start begin startframe framestart firstframe beginframe",
    "end": "end stop endframe frameend lastframe stopframe",
    "start_s": (
        "starts timestart starttime startsec startseconds startsecond startinseconds starttimestamp timestampstart tstart tbegin "
        "begintime beginseconds"
    ),
    "stop_s": (
        "stops ends timeend timestop endtime stoptime endsec stopsec endseconds stopseconds endsecond stopsecond endinseconds "
        "endtimestamp stoptimestamp timestampend tend tstop"
    ),
    "total": "total totalframes numframes frames nframes numberofframes framecount numframe",
    "offset": "offset frameoffset",
    "group": "group groupid groups",
}
# Frame numbers if the paths are folders; seconds, under these meanings, if they are files
PLAIN_ENDS = {"start": "start_s", "begin": "start_s", "end": "stop_s", "stop": "stop_s"}
# Columns of times in forms that are not supported
UNREAD_TIMES = "timestamp timestamps segment segments startms endms stopms".split()
SPLIT_WORDS = {
    "train": "train training trn tr trainset trainingset",
    "validation": "val valid validation validate dev devel development eval evaluation vali valset validationset devset",
    "test": "test testing tst testset",
}
KNOWN_HEADERS = (  # (columns of another format, the recipe that reads it)
    ({"youtubeid", "timestart", "timeend"}, "datasets/kinetics400/prepare.py (--version 600, --version 700)"),
    ({"id", "template", "placeholders"}, "datasets/ssv2/prepare.py"),
)
_MEANINGS = {word: name for name, words in COLUMNS.items() for word in words.split()}
_SPLITS = {word: name for name, words in SPLIT_WORDS.items() for word in words.split()}
_RANK = {word: place for place, word in enumerate(COLUMNS["path"].split())}
SKIP = ("", "-", "_")  # in --columns: not used


def plain(name: str) -> str:
    """Return a column's name without case, blanks, - and _."""
    return re.sub(r"[\s_\-.]+", "", name.strip().strip('"').casefold())


def meaning_of(name: str) -> str:
    """Return the key of COLUMNS for a column name, or '' if the name is unknown."""
    return _MEANINGS.get(plain(name), "")


def is_number(cell: Any) -> bool:
    """Return whether a cell is a whole number of at most 9 digits."""
    return re.fullmatch(r"-?[0-9]{1,9}", cell) is not None if isinstance(cell, str) else False


def read_number(name: str, text: str, where: str) -> dict[str, int]:
    """Return {name: number}, or {} for an empty cell. Raises UserError unless the text is a whole number."""
    if not text:
        return {}
    if not is_number(text := text.removesuffix(".0")):
        raise UserError(f"{where}: {name} '{text}'; expected a whole number")
    return {name: int(text)}


def looks_like_header(cells: Sequence[str]) -> bool:
    """Return whether a line is a header: one cell names a path column, and no cell is a number or a file."""
    return any(meaning_of(cell) == "path" for cell in cells) and not any(map(is_data, cells))


def is_data(cell: str) -> bool:
    """Return whether a cell is a number or a file name, and so not the name of a column."""
    return is_number(cell.strip()) or cell.strip().lower().endswith(SUFFIXES + IMAGE_SUFFIXES)


def check_header(names: Sequence[str], where: str) -> None:
    """Raise UserError if a header has no path column, has a name twice, or is that of another recipe."""
    found = {plain(name) for name in names}
    shown = ",".join(name.strip() for name in names)[:200]
    for wanted, recipe in KNOWN_HEADERS:
        if wanted <= found:
            raise UserError(f"{where}: a header of another format ({shown}); expected {recipe}, which reads it")
    if not any(meaning_of(name) == "path" for name in names):
        raise UserError(
            f"{where}: no column of the header ({shown}) is known to hold the path; expected one called path, or say what "
            "the columns are: --columns path,label,... (- for one that is not used)"
        )
    used = [plain(name) for name in names if meaning_of(name)]
    twice = sorted({name for name in used if used.count(name) > 1})
    if twice:
        raise UserError(f"{where}: the header has {twice[0]} twice ({shown}); expected each column once, or --columns")


def unread_times(names: Sequence[str]) -> list[str]:
    """Return the columns that hold times in a form that is not supported."""
    return [name for name in names if plain(name) in UNREAD_TIMES]


def rank_of_path(name: str) -> int:
    """Return the rank of a name among those of path columns; 0 is the most certain."""
    return _RANK[plain(name)]


def read_split(cell: str, where: str, column: str) -> str:
    """Return train, validation or test. Raises UserError for any other word."""
    found = _SPLITS.get(plain(cell))
    if found is None:
        raise UserError(
            f"{where}: {column} '{cell}'; expected train, validation or test (val, valid, dev, eval, testing, ... too). "
            "If that column is not a split, say what the columns are: --columns path,label,- (- for one that is not used)"
        )
    return found


def find_split(name: str) -> str:
    """Return the split that a word of the name names, as in data-val-000.tar; '' if there is none."""
    return next((_SPLITS[word] for word in re.findall(r"[a-z]+", name.lower()) if word in _SPLITS), "")


def split_of_path(path: Path) -> str:
    """Return the split that a word of the path names; else train."""
    return find_split(path.as_posix()) or "train"


def check_columns(columns: Sequence[str]) -> tuple[str, ...]:
    """Return the meanings in --columns, '' for unused columns. Raises UserError."""
    names = tuple("" if name.strip() in SKIP else name.strip() for name in columns)
    unknown = [name for name in names if name and name not in COLUMNS]
    if unknown or "path" not in names or any(name and names.count(name) > 1 for name in names):
        raise UserError(
            f"columns {','.join(columns)}; expected path and some of {','.join(COLUMNS)}, each once (- for one that is not used)"
        )
    return names
