"""Add each customer's name, country and total to a CSV file of orders, from an SQLite database.

It is a join, and SQLite alone would do it. The query stands for whatever is expensive to ask for:
a service, a model, a remote database. Each customer is asked for once, by whichever worker comes
first; the others get its answer.
"""

import csv
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from random import Random
from typing import Unpack

from ..files import InputError, Table, check_paths, check_readable, reading_csv, replacing
from ..progress import track
from ..sharing import Cache, EngineOptions, PerWorker, open_engine

COLUMNS = ("order_id", "customer_id", "amount_cents")
ADDED = ("customer_name", "customer_country", "customer_total_cents")
BLOCK = 500
QUERY = """
    SELECT name, country, (
        SELECT COALESCE(SUM(amount_cents), 0) FROM orders
        WHERE orders.customer_id = customers.customer_id
    )
    FROM customers WHERE customer_id = ?
"""

Row = tuple[int, list[str]]
Customer = tuple[str, str, int]


@dataclass
class State:
    """What the workers share, and a database connection that each has of its own."""

    orders: Path
    customer_column: int
    shop: PerWorker[sqlite3.Connection]
    customers: Cache = field(default_factory=lambda: Cache(max_entries=1_000_000))


def open_shop(path: Path) -> sqlite3.Connection:
    """Open a database for reading, and raise if it is not one with our tables."""
    check_readable(path)
    shop = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        shop.execute("SELECT customer_id, name, country FROM customers LIMIT 0")
        shop.execute("SELECT order_id, customer_id, amount_cents, placed_on FROM orders LIMIT 0")
    except sqlite3.Error as error:
        shop.close()
        raise InputError(f"{path}: {error}") from error
    return shop


def look_up(customer_id: str, shop: sqlite3.Connection) -> Customer | None:
    """Ask the database for one customer: the expensive question."""
    found: Customer | None = shop.execute(QUERY, (customer_id,)).fetchone()
    return found


def customer_of(order: list[str], state: State) -> Customer | None:
    """Return what is known of an order's customer."""
    key = order[state.customer_column]
    return state.customers.get_or_compute(key, lambda: look_up(key, state.shop.get()))


def enrich(rows: list[Row], state: State) -> list[list[str | int]]:
    """Return a block of orders with their customers' columns added."""
    done: list[list[str | int]] = []
    for line, order in rows:
        customer = customer_of(order, state)
        if customer is None:
            unknown = order[state.customer_column]
            raise InputError(f"{state.orders}, line {line}: the shop has no customer {unknown!r}")
        done.append([*order, *customer])
    return done


def main(
    orders: Path, shop: Path, out: Path, **options: Unpack[EngineOptions]
) -> dict[str, object]:
    """Write the orders to `out`, in the order in which they came."""
    check_paths([orders, shop], [out])
    open_shop(shop).close()
    with reading_csv(orders, COLUMNS) as table, replacing(out) as (file,):
        taken = [column for column in ADDED if column in table.header]
        if taken:
            raise InputError(f"{orders}, line 1: there is a column {', '.join(taken)} already")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*table.header, *ADDED])
        (column,) = table.places("customer_id")
        state = State(orders, column, PerWorker(open_shop, shop))
        count = 0
        customers: set[str] = set()
        with open_engine(state, **options) as engine:
            for rows in track(engine.map(enrich, blocks(table)), "blocks"):
                writer.writerows(rows)
                count += len(rows)
                customers.update(str(row[column]) for row in rows)
            computed = engine.state.customers.stats().computed
    return {"orders": count, "customers": len(customers), "computed": computed}


def blocks(table: Table) -> Iterator[list[Row]]:
    """Cut the rows into items that are worth a worker's while."""
    while block := list(islice(table.rows, BLOCK)):
        yield block


def sample(folder: Path, random: Random) -> list[str]:
    """Write a shop with 300 customers and 20,000 orders of theirs."""
    customers = [
        (f"c{number}", f"Customer {number}", random.choice(("Chile", "Ghana", "Japan", "Norway")))
        for number in range(300)
    ]
    past = [
        (f"p{number}", random.choice(customers)[0], random.randrange(100, 50_000), "2024-12-31")
        for number in range(20_000)
    ]
    with closing(sqlite3.connect(folder / "shop.sqlite")) as shop, shop:
        shop.execute("CREATE TABLE customers (customer_id TEXT PRIMARY KEY, name, country)")
        shop.execute("CREATE TABLE orders (order_id, customer_id TEXT, amount_cents, placed_on)")
        shop.executemany("INSERT INTO customers VALUES (?, ?, ?)", customers)
        shop.executemany("INSERT INTO orders VALUES (?, ?, ?, ?)", past)
    with (folder / "orders.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for number in range(20_000):
            customer = random.choice(customers)[0]
            writer.writerow((f"o{number}", customer, random.randrange(100, 50_000)))
    return [str(folder / name) for name in ("orders.csv", "shop.sqlite", "orders-enriched.csv")]
