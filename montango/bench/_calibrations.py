"""The measurements of `montango bench calibrate`, each beside the truth."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from montango.bench.calibrate import APERTURE_RADIUS_UM, COARSE, DEFOCI_UM, FINE, MAGNIFICATION, Row
from plans.calibrate import (
    calibrate_aperture,
    calibrate_backlash,
    calibrate_beam,
    calibrate_bright,
    calibrate_dark,
    calibrate_distortion,
    calibrate_exposure,
    calibrate_image_shift,
    calibrate_stage_camera,
)
from plans.specs.focus import FocusSpec
from plans.stubs.focus import autofocus, autostigmate
from sim.lenses import Lenses, true_geometry

if TYPE_CHECKING:
    from montango.bench.calibrate import Bench

DARK_S = 0.1
REFERENCE_E = 2400.0
"""Electrons a pixel that the simulated camera shows at 45 % of full scale, where it names no gain."""


def stage_camera(bench: Bench) -> list[Row]:
    """Pixel size, rotation, and the distortion that comes with them."""
    bench.set(magnification=MAGNIFICATION, defocus_um=-_height_um(bench))
    one = bench.run(calibrate_stage_camera(*bench.three, store=bench.store))
    pixel_nm, rotation_deg = true_geometry(bench.simulation, Lenses(magnification=MAGNIFICATION))
    size, rotation = one.number("pixel_size_nm"), one.number("rotation_deg")
    return [
        Row(
            "pixel size",
            f"{pixel_nm:.4f} nm",
            f"{size:.4f} nm",
            100 * abs(size / pixel_nm - 1),
            0.1,
            "%",
        ),
        Row(
            "rotation",
            f"{rotation_deg:.3f} deg",
            f"{rotation:.3f} deg",
            abs(rotation - rotation_deg),
            0.05,
            "deg",
        ),
    ]


def image_shift(bench: Bench) -> list[Row]:
    """Image-shift matrix: the largest relative error of the image of any shift."""
    one = bench.run(calibrate_image_shift(*bench.three, store=bench.store))
    truth = np.array(bench.simulation.column.image_shift_matrix)
    matrix = np.array(one.matrix("stage_per_shift"))
    error = float(np.linalg.norm(matrix - truth, 2) / np.linalg.norm(truth, 2))
    return [Row("image-shift matrix", _matrix(truth), _matrix(matrix), 100 * error, 0.2, "%")]


def distortion(bench: Bench) -> list[Row]:
    """Distortion at half the frame's width."""
    one = bench.run(calibrate_distortion(*bench.three, store=bench.store))
    half_px = bench.simulation.camera.width_px / 2
    truth, found = bench.simulation.column.distortion * half_px, one.number("radial") * half_px
    return [
        Row(
            "distortion at half the width",
            f"{truth:.2f} px",
            f"{found:.2f} px",
            abs(found - truth),
            0.1,
            "px",
        )
    ]


def backlash(bench: Bench) -> list[Row]:
    """Backlash of both axes."""
    one = bench.run(calibrate_backlash(*bench.three, store=bench.store))
    truth = bench.simulation.stage.backlash_um
    return [
        Row(
            f"backlash {axis}",
            f"{1e3 * truth:.0f} nm",
            f"{1e3 * one.number(f'{axis}_um'):.0f} nm",
            100 * abs(one.number(f"{axis}_um") / truth - 1),
            10,
            "%",
        )
        for axis in "xy"
    ]


def defocus(bench: Bench) -> list[Row]:
    """Defocus by beam tilt, from each of several defoci."""
    truth_um = -_height_um(bench)
    errors, reasons = [], []
    for defocus_um in DEFOCI_UM:
        bench.set(defocus_um=truth_um + defocus_um)
        spec = FocusSpec(target_defocus_um=0.0)
        result = bench.run(autofocus(*bench.three, spec))
        errors.append(result.offset_um - truth_um)
        if math.isnan(result.offset_um):
            reasons.append(f"{defocus_um:+g} um: {result.reason}")
    bench.set(defocus_um=truth_um)
    worst = errors[int(np.argmax(np.abs(errors)))] if np.isfinite(errors).all() else math.nan
    low, high = DEFOCI_UM[0], DEFOCI_UM[-1]
    return [
        Row(
            "defocus, by autofocus",
            f"{low:g} to {high:+g} um",
            "; ".join(reasons) or f"worst of {len(errors)}: {worst:+.3f} um",
            abs(worst),
            0.1,
            "um",
        )
    ]


def astigmatism(bench: Bench) -> list[Row]:
    """Astigmatism before correction."""
    bench.set(defocus_um=-_height_um(bench))
    spec = FocusSpec(magnification=FINE, binning=1, accuracy_um=0.05)
    result = bench.run(autostigmate(*bench.three, spec))
    bench.set(objective_stigmator=np.zeros(2))
    truth = bench.simulation.column.astigmatism_um
    error = 100 * abs(result.amplitude_um / truth - 1) if result.converged else math.nan
    measured = f"{result.amplitude_um:.3f} um{'' if result.converged else ', ' + result.reason}"
    return [Row("astigmatism", f"{truth:.3f} um", measured, error, 5, "%")]


def aperture(bench: Bench) -> list[Row]:
    """Centroid and radius of the hole."""
    plan = calibrate_aperture(
        *bench.three, store=bench.store, radius_um=0.95 * APERTURE_RADIUS_UM, magnification=COARSE
    )
    one = bench.run(plan)
    hole = bench.simulation.specimen.aperture
    assert hole is not None
    x_um, y_um = one.number("x_um"), one.number("y_um")
    centre, radius = hole.centre_um, one.number("radius_um")
    return [
        Row(
            "aperture centroid",
            f"({centre[0]:.2f}, {centre[1]:.2f}) um",
            f"({x_um:.2f}, {y_um:.2f}) um",
            math.hypot(x_um - centre[0], y_um - centre[1]),
            0.5,
            "um",
        ),
        Row(
            "aperture radius (nominal pixel size)",
            f"{hole.radius_um:.1f} um",
            f"{radius:.2f} um",
            abs(100 * (radius / hole.radius_um - 1)),
            2,
            "%",
        ),
    ]


def beam(bench: Bench) -> list[Row]:
    """Centre and diameter of the beam."""
    column = bench.simulation.column
    one = bench.run(calibrate_beam(*bench.three[:2], store=bench.store))
    offset = one.number("offset_x_um"), one.number("offset_y_um")
    truth = column.beam_offset_um
    ratio = 1 + column.beam_size_error
    return [
        Row(
            "beam centre",
            f"({truth[0]:.3f}, {truth[1]:.3f}) um",
            f"({offset[0]:.3f}, {offset[1]:.3f}) um",
            math.hypot(offset[0] - truth[0], offset[1] - truth[1]),
            0.1,
            "um",
        ),
        Row(
            "beam diameter over nominal",
            f"{ratio:.3f}",
            f"{one.number('diameter_ratio'):.3f}",
            100 * abs(one.number("diameter_ratio") / ratio - 1),
            3,
            "%",
        ),
    ]


def references(bench: Bench) -> list[Row]:
    """Exposure for a target, dark and bright reference."""
    camera, column, stage = bench.three
    target = 20_000.0
    exposure = bench.run(calibrate_exposure(camera, column, store=bench.store, target_counts=target))
    dark = bench.run(calibrate_dark(camera, column, store=bench.store, exposure_time_s=DARK_S))
    bright = bench.run(calibrate_bright(camera, column, stage, store=bench.store))
    full = 2**bench.simulation.camera.bit_depth - 1
    sensor = bench.simulation.camera
    offset = 0.003 * full if sensor.offset_counts is None else sensor.offset_counts
    offset += sensor.dark_current_e_s * DARK_S * (sensor.gain_counts or 0.45 * full / REFERENCE_E)
    reached = exposure.number("reached_counts")
    return [
        Row(
            "auto-exposure: mean reached",
            f"{target:.0f} counts",
            f"{reached:.0f} counts",
            100 * abs(reached / target - 1),
            3,
            "%",
        ),
        Row(
            "dark reference: mean",
            f"{offset:.1f} counts",
            f"{dark.number('mean_counts'):.1f} counts",
            abs(dark.number("mean_counts") - offset),
            10,
            "counts",
        ),
        Row(
            "bright reference: noise of a pixel",
            "0",
            f"{bright.residuals['pixel_rms']:.4f}",
            bright.residuals["pixel_rms"],
            0.05,
            "",
        ),
    ]


def _height_um(bench: Bench) -> float:
    return bench.simulation.specimen.height_um(0.0, 0.0)


def _matrix(matrix: Any) -> str:
    return "; ".join(" ".join(f"{value:.4f}" for value in row) for row in np.asarray(matrix))


MEASUREMENTS = (
    stage_camera,
    image_shift,
    distortion,
    backlash,
    references,
    beam,
    aperture,
    defocus,
    astigmatism,
)
