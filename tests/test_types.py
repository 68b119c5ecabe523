"""The nouns of the library."""

from hpm_video.types import Engine


def test_the_engine_of_the_tests_is_an_engine(tiny_config, local_engine) -> None:
    from hpm_video.models.student import Student

    assert isinstance(local_engine(Student.of(tiny_config())), Engine)
