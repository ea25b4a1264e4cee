"""The real Python of the engine in a world without time: one seed, one run, the same every time.

loop       an event loop whose clock jumps, and which asks a seed who goes first
lasso      what is patched while a run lasts: clocks, ids, dice, logs, sets
keyspace   what Redis keeps, and the commands that the scripts use; the scripts are the real ones
valkey     a Redis server and the client's last inch: connections that break, replies that get lost
ledger     tables, transactions, row locks: as much of Postgres as the statements need
statements, stock, money   each query of sql/queries that a sale runs, on the ledger
postgres   a Postgres server and the driver's last inch
staff      workers and keepers, built as engine/runtime.py builds them
buyers     clients: they retry, double, hang up, and remember what they were told
oracle     knows everything, and compares it with what was told
weather    what goes wrong, and when
world      one run
run        many runs: `python -m tests.virtual`, `hunt(seeds, patch=...)`
"""
