"""Faults by the hundred against a real service, and a judgement of what it answered."""
