"""Fonts for names in any script, from the installed ones; a name that no font can draw gets another label."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

PLAIN = "DejaVu Sans"  # comes with matplotlib


@contextlib.contextmanager
def fonts_for(texts: Iterable[str]) -> Iterator[None]:
    """Draw texts inside the block in the plain font, and characters that it lacks in other installed fonts."""
    import matplotlib

    families = [PLAIN, *dict.fromkeys(font for font in map(_font_of, sorted(set("".join(texts)))) if font)]
    with matplotlib.rc_context({"font.family": families}):
        yield


def name_classes(classes: Sequence[str]) -> list[str]:
    """Return a label for each class: its name, or its number if no installed font can draw the name."""
    return [_plain(name) if can_draw(name) else f"class {number}" for number, name in enumerate(classes)]


def name_file(name: str, longest: int) -> str:
    """Return the end of a file's name, with ? for each character that cannot be drawn."""
    drawn = "".join(character if can_draw(character) else "?" for character in name)
    return _plain(drawn if len(drawn) <= longest else "…" + drawn[1 - longest :])


def can_draw(text: str) -> bool:
    """Return True if the installed fonts have every character of a text."""
    return all(_font_of(character) is not None for character in text)


def _plain(text: str) -> str:
    """Escape dollar signs, which would start a formula."""
    return text.replace("$", r"\$")


@cache
def _font_of(character: str) -> str | None:
    """Return the family of a font that has this character: '' for the plain font, None if no font has it."""
    if not character.isprintable():
        return None
    for family, characters in _charmaps():
        if ord(character) in characters:
            return "" if family == PLAIN else family
    return None


def _charmaps() -> Iterator[tuple[str, frozenset[int]]]:
    """Yield font families with their characters, the plain one first. Each file is opened only when it is needed."""
    from matplotlib.font_manager import findfont, fontManager

    yield PLAIN, _characters_of(findfont(PLAIN))
    regular = [font for font in fontManager.ttflist if font.style == "normal" and not _draws_nothing(font.name)]
    for font in sorted(
        regular, key=lambda font: (abs(int(font.weight) - 400) if str(font.weight).isdigit() else 0, font.name)
    ):
        yield font.name, _characters_of(font.fname)


def _draws_nothing(family: str) -> bool:
    """Return True if a font claims every character but draws boxes or blanks (Last Resort, Adobe Blank)."""
    return any(name in family.lower().replace(" ", "") for name in ("lastresort", "adobeblank"))


@cache
def _characters_of(file: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError, ValueError):  # a font file that cannot be read
        return frozenset()
