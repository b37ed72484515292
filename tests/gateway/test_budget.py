import threading
import time

import pytest

from gateway.budget import Budget


def test_holders_share_what_there_is() -> None:
    budget = Budget(10)
    with budget.hold(4), budget.hold(6):
        waiting = threading.Thread(target=lambda: budget.hold(1).__enter__())
        waiting.start()
        waiting.join(0.1)
        assert waiting.is_alive()
    waiting.join(5)
    assert not waiting.is_alive()


def test_failure_gives_back_too() -> None:
    budget = Budget(1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), budget.hold(1):
            raise ZeroDivisionError
    with budget.hold(1):
        pass


def test_large_request_is_not_passed_by_small_ones_for_ever() -> None:
    budget = Budget(10)
    order: list[str] = []
    held = budget.hold(5)
    held.__enter__()

    def take(name: str, amount: int) -> None:
        with budget.hold(amount):
            order.append(name)

    threads = [threading.Thread(target=take, args=["large", 10])]
    threads += [threading.Thread(target=take, args=["small", 1]) for _ in range(5)]
    for thread in threads:
        thread.start()
        time.sleep(0.05)  # so that they come in this order
    held.__exit__(None, None, None)
    for thread in threads:
        thread.join(5)
    assert order == ["large"] + ["small"] * 5
