"""Attacks are what they say: bodies within the limit, so that they are not refused for their size."""

import pytest

from gateway.settings import Settings
from loadtest.tools.attacks import Attack, attacks


@pytest.mark.parametrize("attack", attacks(), ids=lambda attack: attack.name)
def test_body_is_within_the_limit(attack: Attack) -> None:
    assert len(attack.body()) <= Settings().max_body_bytes


def test_names_are_different() -> None:
    names = [attack.name for attack in attacks()]
    assert len(set(names)) == len(names)
