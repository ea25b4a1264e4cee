"""Velvetrope: a reservation engine. docs/ARCHITECTURE.md is the map."""
