"""Signs of life: a rank that falls silent is named on all ranks; a slow one, and one that has ended, are not."""

import pytest

from hpm_video.train.engines.heartbeat import Heartbeat


class Shared:
    """A store of one process, which can be cut off."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.cut = False

    def set(self, key: str, value: str) -> None:
        self._answer()
        self.values[key] = value.encode()

    def get(self, key: str) -> bytes:
        self._answer()
        return self.values[key]

    def check(self, keys: list[str]) -> bool:
        self._answer()
        return all(key in self.values for key in keys)

    def _answer(self) -> None:
        if self.cut:
            raise RuntimeError("Connection reset by peer")


@pytest.fixture
def store() -> Shared:
    return Shared()


def beat(hearts: list[Heartbeat], now_s: float) -> None:
    for heart in hearts:
        heart.beat(now_s)


def test_all_ranks_name_the_one_that_falls_silent(store) -> None:
    hearts = [Heartbeat(store, rank, 3, limit_s=60) for rank in range(3)]
    for now_s in range(0, 50, 5):
        beat(hearts, now_s)
    assert not any(heart.find_silence(50) for heart in hearts)
    for now_s in range(50, 120, 5):
        beat([hearts[0], hearts[1]], now_s)
    assert hearts[0].lost == hearts[1].lost is not None
    assert hearts[0].lost.startswith("rank 2 on ") and hearts[0].lost.endswith("has given no sign of life for 60 s")


def test_a_rank_that_never_started_is_named_too(store) -> None:
    heart = Heartbeat(store, 0, 2, limit_s=60)
    for now_s in range(100, 165, 5):
        assert heart.lost is None
        heart.beat(now_s)
    heart.beat(166)
    assert heart.lost == "rank 1 has given no sign of life for 60 s"


def test_a_slow_rank_is_not_lost(store) -> None:
    hearts = [Heartbeat(store, rank, 2, limit_s=60) for rank in range(2)]
    for now_s in range(0, 600, 55):
        beat(hearts, now_s)
    assert hearts[0].lost is None and hearts[1].lost is None


def test_a_rank_that_has_ended_is_not_lost(store) -> None:
    hearts = [Heartbeat(store, rank, 2, limit_s=60) for rank in range(2)]
    beat(hearts, 0)
    hearts[1].end()
    for now_s in range(5, 300, 5):
        hearts[0].beat(now_s)
    assert hearts[0].lost is None


def test_a_store_that_does_not_answer_is_the_loss_of_rank_0(store) -> None:
    heart = Heartbeat(store, 1, 2, limit_s=60)
    heart.beat(0)
    store.cut = True
    with pytest.raises(RuntimeError):
        heart.beat(5)
    assert heart.find_silence(59) is None
    assert heart.find_silence(61) == "rank 0 has given no sign of life for 60 s"


def test_rank_0_is_named_by_its_address_before_its_first_heartbeat(store) -> None:
    heart = Heartbeat(store, 1, 2, limit_s=60, address="10.0.0.1")
    heart.beat(0)
    store.cut = True
    assert heart.find_silence(61) == "rank 0 on 10.0.0.1 has given no sign of life for 60 s"
