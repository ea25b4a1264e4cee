"""The bench: every goal of speed, in one command: `make bench` or `python -m loadtest.bench`.

    goals.py    what is asked: each goal, the samples it needs and how it is computed from them
    rates.py    requests a second: echo, holds, refusals, pairs, the baselines, paced loads
    spread.py   one drop from 1, 2 and 4 workers
    claims.py   the engine without HTTP, and pgbench
    deadlines.py  from a deadline to the shelf
    sizes.py    bytes a hold: WAL, tables, Redis
    stage.py    servers and workers of one act        usage.py   whose CPU it was
    report.py   medians, tables, JSON                 plot.py    the picture

An act is a set of samples that share servers. Its rounds take each sample in turn (A B A B), and a
goal is a ratio within a round: absolute figures say as much about the machine as about the code,
and swing by half from one minute to the next.
"""
