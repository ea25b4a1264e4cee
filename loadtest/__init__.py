"""Measuring the engine against an empty server and against the obvious implementation."""
