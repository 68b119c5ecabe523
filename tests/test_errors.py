"""The errors that are raised on purpose."""

import pickle

from hpm_video.errors import MOST_CHARACTERS, UserError, first_line


def test_a_long_message_keeps_its_start_and_its_end() -> None:
    error = UserError(f"list.csv, line 3: '{'x' * 200_000}'; expected a number")
    assert len(str(error)) < MOST_CHARACTERS + 20
    assert str(error).startswith("list.csv, line 3: 'xx") and str(error).endswith("xx'; expected a number")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(UserError("y" * MOST_CHARACTERS)) == "y" * MOST_CHARACTERS and str(UserError()) == ""


def test_first_line() -> None:
    assert first_line(ValueError("a\nb")) == "a" and first_line(ValueError()) == "ValueError"
