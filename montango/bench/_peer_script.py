"""Stitch one montage with one peer: run by the interpreter of the peers' own environment, never imported.

``python _peer_script.py PEER FOLDER`` reads ``FOLDER/set.json`` (paths of the tiles, their first pixels as
the stage says, rows and columns) and writes ``FOLDER/PEER.json``: where the peer puts each tile, CPU s and
peak memory. Nothing of Montango is needed or used, so that what a peer costs is the peer's alone.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np


def main(peer: str, folder: Path) -> None:
    """Stitch, and write what came of it."""
    warnings.filterwarnings("ignore")
    given = json.loads((folder / "set.json").read_text())
    began = time.time()
    result: dict[str, Any] = {"peer": peer}
    try:
        result["first_px"] = np.asarray(PEERS[peer](given, folder), float).tolist()
    except Exception as error:  # noqa: BLE001  # a peer that fails is a result, too
        result["error"] = f"{type(error).__name__}: {error}"[:300]
        traceback.print_exc()
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    result["wall_s"] = time.time() - began
    result["cpu_s"] = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    # ru_maxrss would count what the parent had; worker processes of a peer are left out
    lines = Path("/proc/self/status").read_text().splitlines()
    result["peak_mb"] = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))
    (folder / f"{peer}.json").write_text(json.dumps(result))


def _images(given: dict[str, Any]) -> list[Any]:
    import tifffile

    return [tifffile.imread(path) for path in given["paths"]]


def itk_montage(given: dict[str, Any], _: Path) -> Any:
    """Phase correlation of whole tiles in C++ (ITKMontage), with its least-squares placement."""
    import itk

    nominal = np.array(given["first_px"])
    rows, columns = max(given["rows"]) + 1, max(given["columns"]) + 1
    step = [
        float(np.ptp(nominal[:, 0]) / max(1, columns - 1)),
        float(np.ptp(nominal[:, 1]) / max(1, rows - 1)),
    ]
    kind = itk.Image[itk.F, 2]
    montage = itk.TileMontage[kind, itk.F].New()
    montage.SetMontageSize([columns, rows])
    # tiles must all lie at 0 where the step is given: otherwise each lands at twice its place
    montage.SetOriginAdjustment(step)
    montage.SetForcedSpacing([1.0, 1.0])
    for at, (row, column, image) in enumerate(
        zip(given["rows"], given["columns"], _images(given), strict=True)
    ):
        if at != row * columns + column:
            raise ValueError("ITKMontage needs the tiles row by row, without gaps")
        montage.SetInputTile(at, itk.image_from_array(np.asarray(image, np.float32)))
    montage.SetPositionTolerance(int(given["search_px"]))
    montage.SetNumberOfWorkUnits(1)
    montage.Update()
    found = []
    for row, column, place in zip(given["rows"], given["columns"], nominal, strict=True):
        moved = montage.GetOutputTransform([int(column), int(row)]).GetOffset()
        found.append([place[0] - moved[0], place[1] - moved[1]])
    return found


def ashlar(given: dict[str, Any], _: Path) -> Any:
    """ASHLAR with a maximal shift and a filter that suit electron micrographs (its defaults reject most)."""
    from ashlar import reg

    images = _images(given)
    nominal = np.array(given["first_px"])[:, ::-1]

    class Metadata(reg.Metadata):  # type: ignore[misc]
        _num_images = len(images)
        num_channels = 1
        pixel_size = 1.0
        pixel_dtype = images[0].dtype

        def tile_position(self, i: int) -> Any:
            return nominal[i]

        def tile_size(self, i: int) -> Any:
            return np.array(images[i].shape)

    class Reader(reg.Reader):  # type: ignore[misc]
        metadata = Metadata()
        path = "montage"

        def read(self, series: int, c: int) -> Any:
            return images[series]

    aligner = reg.EdgeAligner(
        Reader(), max_shift=given["search_px"] * 1.5, filter_sigma=2, do_make_thumbnail=False
    )
    aligner.check_overlaps()
    aligner.compute_threshold()
    aligner.register_all()
    aligner.build_spanning_tree()
    aligner.calculate_positions()
    aligner.fit_model()
    return np.asarray(aligner.positions)[:, ::-1]


def multiview_stitcher(given: dict[str, Any], _: Path) -> Any:
    """multiview-stitcher (BigStitcher's method in Python), phase correlation at half the resolution."""
    from multiview_stitcher import msi_utils, registration
    from multiview_stitcher import spatial_image_utils as spatial

    nominal = np.array(given["first_px"])
    views = []
    for image, (x, y) in zip(_images(given), nominal, strict=True):
        view = spatial.get_sim_from_array(
            image,
            dims=["y", "x"],
            scale={"y": 1, "x": 1},
            translation={"y": y, "x": x},
            transform_key="stage",
        )
        views.append(msi_utils.get_msim_from_sim(view, scale_factors=[]))
    moved = registration.register(
        views,
        reg_channel_index=0,
        transform_key="stage",
        new_transform_key="registered",
        registration_binning={"y": 2, "x": 2},
        pre_registration_pruning_method="keep_axis_aligned",
    )
    offsets = [np.asarray(transform.squeeze())[:2, 2][::-1] for transform in moved]
    return nominal + np.array(offsets)


def _feabas(given: dict[str, Any], folder: Path, elastic: bool) -> Any:
    work = folder / "feabas"
    (work / "configs").mkdir(parents=True, exist_ok=True)
    # its wheel has no configuration, and it looks for one in the current folder
    (work / "configs" / "general_configs.yaml").write_text(
        f"working_directory: {work}\ncpu_budget: 1\nparallel_framework: process\nfull_resolution: 4\n"
    )
    os.chdir(work)
    from feabas import constant
    from feabas.stitcher import Stitcher

    nominal = np.array(given["first_px"])
    height, width = _images({"paths": given["paths"][:1]})[0].shape
    boxes = np.hstack([nominal, nominal + np.array([width, height])])
    stitcher = Stitcher(given["paths"], boxes, resolution=4.0)
    stitcher.dispatch_matchers(
        num_workers=1,
        min_overlap_width=25,
        margin=int(given["search_px"] * 1.5),
        loader_config={"cache_size": 150},
        matcher_config={
            "conf_thresh": 0.33,
            "residue_mode": "huber",
            "residue_len": 2,
            "pad": True,
            "sigma": 2.5,
            "coarse_downsample": 0.5,
            "fine_downsample": 1.0,
        },
    )
    # an object that has matched once keeps a stale optimiser: save and load clears it
    saved = str(work / "matches.h5")
    stitcher.save_to_h5(saved, save_matches=True, save_meshes=False)
    stitcher = Stitcher.from_h5(saved, load_matches=True, load_meshes=False)
    stitcher.set_groupings(np.zeros(stitcher.num_tiles, np.int32) if elastic else None)
    stitcher.initialize_meshes([100, 300])
    stitcher.initialize_optimizer()
    fixed, moving = constant.MESH_GEAR_FIXED, constant.MESH_GEAR_MOVING
    stitcher.optimize_translation(target_gear=fixed, tol=1e-7, residue_threshold=0.5)
    if elastic:
        stitcher.optimize_group_intersection(
            target_gear=fixed, tol=1e-6, residue_mode="threshold", residue_len=3
        )
        stitcher.optimize_translation(target_gear=fixed, tol=1e-7, residue_threshold=0.5)
        stitcher.optimize_elastic(
            use_groupings=True, target_gear=fixed, tol=1e-6, residue_mode="threshold", residue_len=3
        )
        stitcher.optimize_elastic(
            target_gear=moving,
            tol=1e-4,
            residue_mode="huber",
            residue_len=3,
            callback_settings={"early_stop_thresh": 1, "chances": 20, "eval_step": 10},
        )
    stitcher.connect_isolated_subsystem(explode_factor=1.0)
    gear = moving if elastic else fixed
    if elastic:
        _write_mesh(stitcher, gear, folder, width, height)
    return [
        np.asarray(mesh.estimate_translation(gear=(constant.MESH_GEAR_INITIAL, gear))).ravel()[:2]
        for mesh in stitcher.meshes
    ]


def _write_mesh(stitcher: Any, gear: Any, folder: Path, width: int, height: int) -> None:
    """Write where the elastic solution puts a lattice of points of each tile: (tile, y, x, 2) as (x, y)."""
    from feabas import constant

    x, y = np.linspace(0, width - 1, 33), np.linspace(0, height - 1, 33)
    lattice = np.stack(np.meshgrid(x, y), axis=-1)
    placed = []
    for mesh in stitcher.meshes:
        # both gears are in the coordinates of the mesh plus an offset of their own
        start = mesh.vertices_w_offset(gear=constant.MESH_GEAR_INITIAL)
        moved = mesh.vertices_w_offset(gear=gear)
        from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator

        points = lattice.reshape(-1, 2)
        found = LinearNDInterpolator(start, moved)(points)
        outside = ~np.isfinite(found).all(axis=1)
        found[outside] = (NearestNDInterpolator(start, moved - start)(points) + points)[outside]
        placed.append(found.reshape(lattice.shape))
    np.savez(folder / "feabas_elastic_mesh.npz", x=x, y=y, placed=np.array(placed))


def feabas_translation(given: dict[str, Any], folder: Path) -> Any:
    """FEABAS with one translation a tile."""
    return _feabas(given, folder, elastic=False)


def feabas_elastic(given: dict[str, Any], folder: Path) -> Any:
    """FEABAS with its elastic meshes."""
    return _feabas(given, folder, elastic=True)


PEERS = {
    "itk-montage": itk_montage,
    "feabas": feabas_translation,
    "feabas-elastic": feabas_elastic,
    "ashlar": ashlar,
    "multiview-stitcher": multiview_stitcher,
}

if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
