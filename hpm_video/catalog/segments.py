"""Read data sets that annotate pieces of films (Charades, AVA, EPIC-Kitchens-100), and Diving48, whose dives are cut already."""

from collections.abc import Iterator
from pathlib import Path

from hpm_video.catalog.listing import FileIndex
from hpm_video.catalog.rows import Entry, Found, collect_rows, find_folder
from hpm_video.catalog.seconds import read_seconds, read_span
from hpm_video.catalog.texts import read_csv, read_json, read_lines
from hpm_video.errors import UserError
from hpm_video.terminal import one_line

FOLDERS = (".", "annotations")
AVA_COLUMNS = "video_id middle_frame_timestamp x1 y1 x2 y2 action_id person_id".split()


def read_charades(root: Path, annotations: Path | None) -> Found:
    """Read Charades, a row for each interval. The test list is `validation`; a group is a person who filmed. Raises UserError.

    Source: Charades_v1_classes.txt and Charades_v1_{train,test}.csv.
    """
    folder = find_folder(root, annotations, (*FOLDERS, "Charades"), "Charades_v1_train.csv")
    lines = read_lines(folder / "Charades_v1_classes.txt", "lines 'c000 Holding some clothes'")
    classes = {line.split()[0]: line.strip() for _, line in lines}
    videos, left_out = FileIndex(root), list[str]()

    def read(file: Path) -> Iterator[Entry]:
        for where, row in read_csv(file, ("id", "subject", "actions", "length")):
            length_s = read_seconds("length", row["length"], where)
            for action in filter(None, row["actions"].split(";")):
                cells = action.split()
                if len(cells) != 3 or cells[0] not in classes:
                    raise UserError(
                        f"{where}: '{one_line(action)}'; expected a class of Charades_v1_classes.txt, start and end"
                    )
                start, stop = (read_seconds("time", cell, where) or 0.0 for cell in cells[1:])
                if stop <= start or (length_s and start >= length_s):
                    left_out.append(f"{where}: '{action}'")
                    continue
                path = videos.find(row["id"])
                yield Entry(where, path, f"{row['id']}.mp4", classes[cells[0]], row["subject"], start, stop)

    files = {"train": folder / "Charades_v1_train.csv", "validation": folder / "Charades_v1_test.csv"}
    found = collect_rows({split: read(file) for split, file in files.items()}, list(classes.values()), files=videos)
    some = ", ".join(left_out[:3])
    note = f"{len(left_out)} intervals are empty or begin after the end of their film; left out: {some}"
    return found._replace(notes=(note, *found.notes)) if left_out else found


def read_ava(root: Path, annotations: Path | None, cut_s: float = 0.0) -> Found:
    """Read AVA, a row for the annotated part of each film. Rows have no label, as AVA labels persons in boxes.

    cut_s: seconds that the start of each file lacks. Source: ava_{train,val}_v2.2.csv (or v2.1). Raises UserError.
    """
    folder = find_folder(root, annotations, FOLDERS, "ava_train_v*.csv")
    videos = FileIndex(root)

    def read(file: Path) -> Iterator[Entry]:
        seconds: dict[str, list[float]] = {}
        for where, row in read_csv(file, AVA_COLUMNS, header=False):
            time = read_seconds("middle_frame_timestamp", row["middle_frame_timestamp"], where) or 0.0
            if time < cut_s:
                raise UserError(
                    f"{where}: second {time:g} of a film; expected --cut-s of less than that, not {cut_s:g}"
                )
            seconds.setdefault(row["video_id"], []).append(time - cut_s)
        for name, times in seconds.items():
            start, stop = max(0.0, min(times) - 0.5), max(times) + 0.5
            yield Entry(f"{file.name}", videos.find(name), name, "", "", start, stop)

    files = {
        "train": max(folder.glob("ava_train_v*.csv")),
        "validation": max(folder.glob("ava_val_v*.csv"), default=None),
    }
    return collect_rows({split: read(file) for split, file in files.items() if file}, [], files=videos)


def read_epic_kitchens(root: Path, annotations: Path | None, label: str = "verb") -> Found:
    """Read EPIC-Kitchens-100, a row for each action. Test rows have no label; a group is a participant.

    label: verb or noun. Source: EPIC_100_{train,validation,test_timestamps,verb_classes,noun_classes}.csv. Raises UserError.
    """
    names = (*FOLDERS, "epic-kitchens-100-annotations", "epic-kitchens-100-annotations-master")
    folder = find_folder(root, annotations, names, "EPIC_100_train.csv")
    listed = list(read_csv(folder / f"EPIC_100_{label}_classes.csv", ("id", "key")))
    keys = {row["id"]: row["key"] for _, row in listed}
    classes = [keys.get(str(number), "") for number in range(len(listed))]
    if not all(classes) or len(set(classes)) < len(classes):
        raise UserError(
            f"{folder}/EPIC_100_{label}_classes.csv: expected ids 0 to {len(classes) - 1}, and a key for each"
        )
    videos = FileIndex(root)

    def read(file: Path, labels: tuple[str, ...]) -> Iterator[Entry]:
        columns = ("narration_id", "participant_id", "video_id", "start_timestamp", "stop_timestamp", *labels)
        for where, row in read_csv(file, columns):
            number = row[labels[0]] if labels else ""
            if labels and number not in keys:
                raise UserError(f"{where}: {labels[0]} '{one_line(number)}'; expected 0 to {len(classes) - 1}")
            span = read_span(row["start_timestamp"], row["stop_timestamp"], where)
            name = keys.get(number, "")
            yield Entry(
                where, videos.find(row["video_id"]), f"{row['video_id']}.MP4", name, row["participant_id"], *span
            )

    files = {
        split: (folder / f"EPIC_100_{name}.csv", () if split == "test" else (f"{label}_class",))
        for split, name in (("train", "train"), ("validation", "validation"), ("test", "test_timestamps"))
    }
    entries = {split: read(*part) for split, part in files.items() if part[0].is_file()}
    return collect_rows(entries, classes, files=videos)


def read_diving48(root: Path, annotations: Path | None) -> Found:
    """Read Diving48, a row for each dive, which is a file. The test list is `validation`. Raises UserError.

    Source: Diving48_vocab.json and Diving48_V2_{train,test}.json (or Diving48_{train,test}.json of the first version).
    """
    folder = find_folder(root, annotations, FOLDERS, "Diving48_vocab.json")
    vocabulary = read_json(folder / "Diving48_vocab.json", list, 'a list of dives [["Back", "15som", ...], ...]')
    classes = [" ".join(map(str, parts)) if isinstance(parts, list) else str(parts) for parts in vocabulary]
    videos = FileIndex(root)

    def read(part: str) -> Iterator[Entry]:
        files = [folder / f"Diving48_{version}{part}.json" for version in ("V2_", "")]
        file = next((file for file in files if file.is_file()), files[0])
        for number, dive in enumerate(read_json(file, list, 'a list of dives [{"vid_name": "a", "label": 0}, ...]'), 1):
            where = f"{file}, row {number}"
            label = dive.get("label") if isinstance(dive, dict) else None
            if type(label) is not int or not 0 <= label < len(classes) or not isinstance(dive.get("vid_name"), str):
                raise UserError(
                    f"{where}: {str(dive)[:80]}; expected vid_name, and a label from 0 to {len(classes) - 1}"
                )
            yield Entry(where, videos.find(dive["vid_name"]), f"{dive['vid_name']}.mp4", classes[label])

    return collect_rows({"train": read("train"), "validation": read("test")}, classes, files=videos)
