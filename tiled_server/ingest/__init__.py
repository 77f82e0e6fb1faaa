"""Montages of other programs, registered where they lie.

`serialem`, `folders` and `ome_tiff` read what says where tiles lie into a `source.Source`; `files` sees which
of its images are whole, and takes their checksums; `documents` makes a run of them; `ingest` does all of it,
once for each frame; `adapter` serves the pixels.
"""
