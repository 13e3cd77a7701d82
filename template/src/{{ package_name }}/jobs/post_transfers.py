"""Post transfers between accounts, so that money is never made or lost on the way.

OUT.csv gets the balances, OUT.refused.csv what was refused and why.

This shows correctness, not speed: a plain loop adds up a million transfers in 0.15 s; two workers
take as long, and 0.1 s to start. They pay when a transfer costs more than an addition.
"""

import csv
import struct
from array import array
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Unpack

from ..files import InputError, check_paths, reading_csv, replacing
from ..progress import track
from ..sharing import EngineOptions, Guarded, open_engine

COLUMNS = ("transfer_id", "from_account", "to_account", "amount_cents")
BLOCK = 5_000
LARGEST = 2**63 - 1  # what a balance can hold


@dataclass
class State:
    """What the workers share: a balance an account. Slot 0 is the world outside.

    Every transfer takes from one slot what it gives to another: the sum of all is always 0.
    """

    balances: Guarded


@dataclass
class Journal:
    """The transfers of a file, told apart."""

    accounts: dict[str, int] = field(default_factory=lambda: {"": 0})  # with their slots
    valid: "array[int]" = field(default_factory=lambda: array("q"))  # from, to, amount; and so on
    refused: list[tuple[int, str, str]] = field(default_factory=list)

    def blocks(self) -> Iterator[bytes]:
        """Cut the valid transfers into items."""
        for start in range(0, len(self.valid), 3 * BLOCK):
            yield self.valid[start : start + 3 * BLOCK].tobytes()


def post(block: bytes, state: State) -> None:
    """Apply a block of transfers, all of it or nothing."""
    changes: dict[int, int] = defaultdict(int)
    for sender, receiver, amount in struct.iter_unpack("=3q", block):
        changes[sender] -= amount
        changes[receiver] += amount
    with state.balances as balances:
        for slot, change in changes.items():
            balances[slot] += change


def read(path: Path) -> Journal:
    """Read the transfers and refuse those that cannot be posted."""
    journal = Journal()
    total = 0
    came: set[str] = set()
    with reading_csv(path, COLUMNS) as table:
        places = table.places(*COLUMNS)
        for line, row in track(table.rows, "lines"):
            transfer, sender, receiver, amount = (row[place] for place in places)
            reason = refusal(sender, receiver, amount)
            if reason is None and transfer in came:
                reason = "this transfer_id came before"
            came.add(transfer)
            if reason is not None:
                journal.refused.append((line, transfer, reason))
                continue
            cents = int(amount[-20:]) if len(amount.lstrip("0")) < 20 else LARGEST + 1
            total += cents
            if total > LARGEST:
                raise InputError(f"{path}, line {line}: amounts add up to more than {LARGEST}")
            slot = journal.accounts
            for account in (sender, receiver):
                journal.valid.append(slot.setdefault(account, len(slot)))
            journal.valid.append(cents)
    return journal


def refusal(sender: str, receiver: str, amount: str) -> str | None:
    """Say what is wrong with a transfer, if anything is."""
    if not (amount.isascii() and amount.isdigit() and amount.strip("0")):
        return "the amount is not a whole number of cents above 0"
    if sender == receiver:
        return "from and to are the same account" if sender else "there is no account"
    return None


def main(transfers: Path, out: Path, **options: Unpack[EngineOptions]) -> dict[str, object]:
    """Write the balances to `out`, and what was refused beside it."""
    refused = out.parent / f"{out.stem}.refused.csv"
    check_paths([transfers], [out, refused])
    with replacing(out, refused) as (balance_file, refused_file):
        journal = read(transfers)
        state = State(Guarded("q", [0] * len(journal.accounts)))
        with open_engine(state, **options) as engine:
            guarded = engine.state.balances
            done = engine.map(post, journal.blocks(), ordered=False, retries=5)
            for _ in track(done, "blocks", live=lambda: f"sum {sum(guarded.read())}"):
                pass
            balances = guarded.read()
        owned = {name: balances[slot] for name, slot in journal.accounts.items() if slot}
        writer = csv.writer(balance_file, lineterminator="\n")
        writer.writerow(("account", "balance_cents", "overdrawn"))
        for account, balance in sorted(owned.items()):
            writer.writerow((account, balance, "yes" if balance < 0 else "no"))
        writer = csv.writer(refused_file, lineterminator="\n")
        writer.writerow(("line", "transfer_id", "reason"))
        writer.writerows(journal.refused)
    return {
        "applied": len(journal.valid) // 3,
        "refused": len(journal.refused),
        "accounts": len(owned),
        "total": sum(owned.values()),
    }


def sample(folder: Path, random: Random) -> list[str]:
    """Write 50,000 transfers between 200 accounts, some of which must be refused."""
    accounts = [f"acc{number:03}" for number in range(200)]
    path = folder / "transfers.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for account in accounts:
            writer.writerow((f"open-{account}", "", account, 100_000))
        for number in range(50_000):
            transfer = f"t{number if random.random() > 0.001 else 0}"
            writer.writerow((transfer, *random.choices(accounts, k=2), random.randrange(1, 5_000)))
    return [str(path), str(folder / "balances.csv")]
