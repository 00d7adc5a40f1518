"""Who waits gets its turn in the order in which it came."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from trilith.kernel.turns import Turns


def until_waiting(turns: Turns, many: int) -> None:
    while len(turns._waiting) < many:
        time.sleep(0.001)


def test_so_many_at_a_time_in_the_order_of_their_coming() -> None:
    turns, order, working = Turns(2), [], []
    assert turns.take()
    assert turns.take()

    def work(number: int) -> None:
        turns.take()
        order.append(number)
        working.append(turns._free)
        turns.give()

    with ThreadPoolExecutor(5) as pool:
        for number in range(5):
            pool.submit(work, number)
            until_waiting(turns, number + 1)
        turns.give()
    assert order == [0, 1, 2, 3, 4]
    turns.give()
    assert turns._free == 2


def test_who_waits_in_vain_gives_up_and_leaves_its_place() -> None:
    turns, vain = Turns(1), threading.Event()
    assert turns.take()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(turns.take, vain.is_set)
        until_waiting(turns, 1)
        second = pool.submit(turns.take)
        until_waiting(turns, 2)
        vain.set()
        assert not first.result()
        turns.give()
        assert second.result()
    turns.give()
    assert turns.take()
