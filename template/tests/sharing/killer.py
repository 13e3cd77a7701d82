"""Kills the workers of a process, from outside and at any time: a script, see storm.py.

Its arguments: that process, the folder of signs, a seed, the seconds between two kills, and the
processes that it spares. It ends when it is told that there is "calm".
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import leftovers
from signs import Signs


def send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def main(main_process: int, signs: Signs, dice: random.Random, pause: float) -> None:
    """Kill one that has begun to start, or works; and those that have stopped for it."""
    spared = {os.getpid(), *map(int, signs.notes("spared"))}
    stopped = 0
    while os.getppid() == main_process and not signs.given("calm"):
        time.sleep(dice.uniform(0, 2 * pause))
        alive = {process.pid for process in leftovers.family(main_process)} - spared
        for line in signs.notes("stopped")[stopped:]:
            stopped += 1
            if int(line) in alive:
                send(int(line), signal.SIGKILL)
        # Faster than others start would show only that nothing gets done when nobody works.
        if len(alive & set(map(int, signs.notes("workers")))) >= 2:
            pid_of_one = dice.choice(sorted(alive))
            if dice.random() < 0.25:
                send(pid_of_one, signal.SIGSTOP)
                time.sleep(dice.uniform(0, pause))
            send(pid_of_one, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), Signs(Path(sys.argv[2])), random.Random(sys.argv[3]), float(sys.argv[4]))
