"""Montango: run an electron microscope the way a synchrotron beamline is run."""

from __future__ import annotations

__all__: list[str] = []
