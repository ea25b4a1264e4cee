"""The hot path: drops, holds, purchases."""
