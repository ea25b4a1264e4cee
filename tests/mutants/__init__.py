"""Known mistakes, as patches; `python -m tests.mutants` hunts them."""
