import pytest

from gateway.text.panics import panics_as


def test_other_errors_are_unchanged() -> None:
    @panics_as(ValueError)
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
