"""How fast HERMES is, and how much memory it takes: `python -m benchmarks`, from the root of the repository.

Each case runs in a process of its own, beside a bare loop of the same algorithm (`bare_loop.py`).
"""
