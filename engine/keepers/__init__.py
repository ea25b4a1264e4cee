"""Background work: when to do it. What to do is a verb of a slice."""
