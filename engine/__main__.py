"""`python -m engine`, which is `velvetrope`."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from engine.ops.cli import run

    run()


if __name__ == "__main__":
    main()
