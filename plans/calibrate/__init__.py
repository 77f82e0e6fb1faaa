"""Calibrations: each a plan that measures, keeps what it measured with its residuals, and cleans up."""

from plans.calibrate.aperture import calibrate_aperture
from plans.calibrate.backlash import calibrate_backlash
from plans.calibrate.beam import calibrate_beam
from plans.calibrate.distortion import calibrate_distortion
from plans.calibrate.exposure import calibrate_exposure
from plans.calibrate.image_shift import calibrate_image_shift
from plans.calibrate.references import calibrate_bright, calibrate_dark
from plans.calibrate.stage_camera import calibrate_stage_camera

__all__ = [
    "calibrate_aperture",
    "calibrate_backlash",
    "calibrate_beam",
    "calibrate_bright",
    "calibrate_dark",
    "calibrate_distortion",
    "calibrate_exposure",
    "calibrate_image_shift",
    "calibrate_stage_camera",
]
