"""Who may see and do what in a catalog: people, roles and proposals, raw files, notes.

`people` reads the file of people, `rules` says what follows from it, `source` keeps it as the file is now.
`policy` is what Tiled asks, `scopes` what a request may do, `accounts` the database of principals and keys.
`tags` and `tree` give runs the tags of their proposals. `notes` are what people write to a montage.
`file_ids`, `file_lookup`, `ranges` and `files` hand out raw files; `documents` leaves out their addresses.
`guard` lets go what a client does not take.
"""
