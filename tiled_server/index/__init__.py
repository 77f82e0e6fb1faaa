"""The index of the catalog: one row a montage and one row a tile, in SQL, beside Tiled's own tables.

`schema` has the tables, `store` the database, `reading` what is taken from Tiled's nodes, `rows` what is made
of it, `writing` the transaction of a run, `indexer` the task that keeps all of it up to date, `watch` how it
learns what changed, `queries`, `parameters`, `access` and `router` what the server answers of it.
"""
