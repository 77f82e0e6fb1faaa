"""The devices of a site: copy this package, and add what the site has besides.

The instruments come from ``montango.yaml`` (their drivers too), so they need no code here. A device of
the site's own is another field of `SiteDevices`, made in `make_devices`; the shell shows it by that name.
"""

from __future__ import annotations

from dataclasses import dataclass

from devices.facility.device import Facility
from montango.lab import LabInfo
from profiles.simulated.devices import Devices, make_instruments


@dataclass(frozen=True)
class SiteDevices(Devices):
    """The instruments and the facility's signals; add the site's own devices as fields."""


def make_devices(lab: LabInfo) -> SiteDevices:
    """Return the devices of the site, connected; see `profiles.simulated.devices.make_devices`."""
    facility = Facility(lab.facility_prefix, name="facility")
    return SiteDevices(*make_instruments(lab), facility)
