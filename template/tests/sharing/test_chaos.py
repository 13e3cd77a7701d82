"""All at once, and workers killed at any moment and where it hurts: everything stays exact."""

import random

from signs import Signs
from storm import open_storm

SEED = 20
KILLS = 6


def test_everything_is_exact_in_a_storm(start_method: str, signs: Signs) -> None:
    with open_storm(signs, start_method, random.Random(SEED)) as storm:
        storm.blow(KILLS)
        assert storm.kills >= KILLS
    assert storm.wrong == []
