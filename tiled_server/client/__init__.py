"""Montages for analysts, from a plain Tiled client over HTTP.

Examples
--------
>>> from tiled.client import from_uri
>>> from tiled_server.client import montages
>>> client = from_uri("http://127.0.0.1:8000", api_key="...")  # doctest: +SKIP
>>> m = montages(client, sample="mouse 7")[0]  # doctest: +SKIP
>>> m.tiles[m.tiles.qc_state == "fail"]  # doctest: +SKIP
>>> m.mosaic(0)[2000:2512, 2000:2512].compute()  # doctest: +SKIP
"""

from tiled_server.client._montage import Montage
from tiled_server.client.runs import find_montage, tile_table
from tiled_server.client.search import MontageList, montage, montages
from tiled_server.client.stage_maps import StageMap
from tiled_server.client.totals import stage_map, statistics, worst

__all__ = [
    "Montage",
    "MontageList",
    "StageMap",
    "find_montage",
    "montage",
    "montages",
    "stage_map",
    "statistics",
    "tile_table",
    "worst",
]
