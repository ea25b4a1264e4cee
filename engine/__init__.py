"""Velvetrope: a reservation engine. docs/ARCHITECTURE.md is the map."""

__version__ = "0.1.0"
