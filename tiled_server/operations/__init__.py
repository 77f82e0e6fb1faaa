"""What keeps a catalog for years: backup and restore, a check against files and journal, marks, figures.

`stores` says where a catalog's things lie, `snapshots` and `dumps` copy databases while they are written to,
`manifest` proves a copy, `backup` and `restore` are the whole, `addresses` moves what the catalog points to.
`expected` reads the journal, `contents` the catalog, `files` and `file_records` the files, `check` compares
them. `marks` are what people say of keeping raw data, `metrics` what a monitoring system reads.
"""
