"""Montages written for other programs: each format streamed frame by frame, whole or not at all."""
