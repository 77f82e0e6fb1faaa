"""What focusing makes of columns that do not behave, with a texture displaced and blurred as they would."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from bluesky.utils import Msg

from plans.specs.focus import FocusSpec
from plans.stubs._focus_methods import Found, find_focus
from plans.stubs._focus_probe import Probe

Reals = npt.NDArray[np.float64]
SIDE, PIXEL_UM = 192, 0.008
SPHERICAL_MM = 2.7


def turned(angle_deg: float, scale: float = 1.0) -> Reals:
    """Return a matrix that turns the displacement of a tilt."""
    angle = math.radians(angle_deg)
    return scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


@dataclass
class Column:
    """A column: its height of focus, what tilt does, drift, and the texture it looks at."""

    focus_um: float = 1.3
    tilt_to_stage: Reals = field(default_factory=lambda: turned(0))
    drift_um: float = 0.0
    creep_um: float = 0.0
    texture: bool = True
    noise: float = 0.15
    frozen: bool = False
    set_um: float = 0.0
    tilt_mrad: float = 0.0
    made: int = 0
    newest: npt.NDArray[np.uint16] | None = None

    def frame(self) -> npt.NDArray[np.uint16]:
        """Return what the camera sees now."""
        if self.frozen and self.newest is not None:
            return self.newest
        rng = np.random.default_rng([7, self.made])
        tilt = self.tilt_mrad * 1e-3
        defocus_um = self.set_um - self.focus_um
        away = defocus_um * tilt + SPHERICAL_MM * 1e3 * tilt**3
        ran = self.drift_um * self.made + self.creep_um * (1 - math.exp(-self.made / 2))
        x, y = self.tilt_to_stage @ np.array([away, 0.0]) + (ran, 0.0)
        ky, kx = np.fft.fftfreq(2 * SIDE)[:, None], np.fft.rfftfreq(2 * SIDE)[None, :]
        k2 = kx**2 + ky**2
        damping = np.exp(-((np.pi * 1.2e-3 * defocus_um / PIXEL_UM) ** 2 + 40) * k2)
        # the centre moves by (x, y): the content moves against it
        phase = np.exp(2j * np.pi * (kx * x + ky * y) / PIXEL_UM)
        grains = np.fft.rfft2(np.random.default_rng(3).standard_normal((2 * SIDE, 2 * SIDE)))
        image = 12 * np.fft.irfft2(grains * damping * phase)[:SIDE, :SIDE] * self.texture
        self.made += 1
        grain = self.noise * rng.standard_normal(image.shape)
        self.newest = np.clip(np.rint(20_000 + 2000 * (image + grain)), 0, 65535).astype(np.uint16)
        return self.newest


class Bench(Probe):
    """A probe of such a column: what a RunEngine would do is done at once."""

    def __init__(self, looked_at: Column, spec: FocusSpec, start_um: float = 0.0) -> None:
        to_stage = PIXEL_UM * np.eye(2)
        nobody: Any = None
        zero = (0.0, 0.0)
        super().__init__(nobody, nobody, spec, 1, start_um, zero, zero, 0.0, 0.0, to_stage, 0.1)
        self.looked_at = looked_at
        looked_at.set_um = start_um

    def expose(self) -> Generator[Msg, Any, Any]:
        yield Msg("null")
        frame = self.looked_at.frame()
        self.exposures += 1
        self.frozen = self.last is not None and bool(np.array_equal(self.last, frame))
        self.last = frame
        return frame

    def tilt(self, mrad: float) -> Generator[Msg, Any, None]:
        yield Msg("null")
        self.looked_at.tilt_mrad = mrad

    def focus(self, defocus_um: float) -> Generator[Msg, Any, None]:
        yield Msg("null")
        self.looked_at.set_um = defocus_um


def focused(looked_at: Column, start_um: float = 0.0, **fields: Any) -> tuple[Found, Bench]:
    """Return what focusing finds."""
    bench = Bench(looked_at, FocusSpec(**fields), start_um)
    plan, answer = find_focus(bench), None
    while True:
        try:
            plan.send(answer)
        except StopIteration as end:
            return end.value, bench


@pytest.mark.parametrize("start_um", [-5.0, -1.0, 0.5, 6.0])
@pytest.mark.parametrize("spherical_mm", [0.0, 2.7])
def test_focus_is_found_and_set(start_um: float, spherical_mm: float) -> None:
    looked_at = Column()
    found, _ = focused(looked_at, start_um, spherical_aberration_mm=spherical_mm)
    wrong_um = (SPHERICAL_MM - spherical_mm) * 1e3 * (10e-3) ** 2
    assert found.reason == ""
    assert found.column_um == pytest.approx(1.3 - wrong_um, abs=0.05)
    assert looked_at.set_um == pytest.approx(0.8 - wrong_um, abs=0.05)
    assert looked_at.tilt_mrad == 0.0


@pytest.mark.parametrize(
    "response", [turned(180), turned(90), turned(-40), turned(0, 0.6)], ids=["reversed", "90", "-40", "weak"]
)
def test_what_tilt_does_is_learned(response: Reals) -> None:
    found, bench = focused(Column(tilt_to_stage=response), 4.0, spherical_aberration_mm=2.7, max_iterations=6)
    assert found.reason == ""
    assert found.column_um == pytest.approx(1.3, abs=0.1)
    assert bench.exposures <= 18


def test_creep_after_a_move_is_waited_for() -> None:
    found, bench = focused(Column(creep_um=0.06), 0.8)
    assert found.column_um == pytest.approx(1.3, abs=0.05)
    assert bench.exposures >= 6


def test_steady_drift_does_not_matter() -> None:
    found, _ = focused(Column(drift_um=0.02), -3.0)
    assert found.column_um == pytest.approx(1.3, abs=0.05)


@pytest.mark.parametrize("method", ["beam_tilt", "sharpness", "power_spectrum"])
@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"texture": False}, "nothing in common|detail"), ({"frozen": True}, "same frame twice")],
    ids=["blank", "frozen"],
)
def test_no_number_where_nothing_is_seen(method: str, wrong: dict[str, Any], words: str) -> None:
    looked_at = Column(**wrong)
    found, _ = focused(looked_at, 2.0, method=method)
    assert any(word in found.reason for word in words.split("|")), found.reason
    assert math.isnan(found.column_um)
    assert looked_at.set_um == 2.0


def test_a_tilt_that_does_nothing_is_noticed() -> None:
    looked_at = Column(tilt_to_stage=np.zeros((2, 2)))
    found, _ = focused(looked_at, 0.0)
    assert math.isnan(found.column_um)
    assert "does not follow" in found.reason
    assert looked_at.set_um == 0.0


@pytest.mark.parametrize("method", ["beam_tilt", "sharpness", "power_spectrum"])
def test_a_correction_over_the_range_is_not_believed(method: str) -> None:
    looked_at = Column()
    found, _ = focused(looked_at, 5.5, method=method, range_um=3)
    assert found.reason
    assert looked_at.set_um == 5.5


@pytest.mark.parametrize("method", ["sharpness", "power_spectrum"])
@pytest.mark.parametrize("start_um", [-3.0, 4.0])
def test_series_find_where_it_is_sharpest(method: str, start_um: float) -> None:
    found, _ = focused(Column(), start_um, method=method, sharpest_defocus_um=-0.2)
    assert found.reason == ""
    # sharpest at a true defocus of -0.2 would mean that focus is 0.2 higher
    assert found.column_um == pytest.approx(1.5, abs=0.1)


def test_noise_over_the_accuracy_is_not_converged() -> None:
    found, bench = focused(Column(noise=3.0), 1.0, accuracy_um=0.001)
    assert math.isnan(found.column_um)
    assert "accuracy_um = 0.001" in found.reason
    assert bench.exposures <= 15
