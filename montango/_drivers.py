"""Are the drivers that a configuration names there?"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from devices.errors import ConfigurationError
from montango.config import Instrument, InstrumentsSection, MontangoConfig


def check_drivers(config: MontangoConfig) -> None:
    """Import every driver, and the facility's IOC is looked for but not started.

    Raises
    ------
    ConfigurationError
        A module cannot be imported or has no such class.
    """
    with _python_path(config):
        for name in InstrumentsSection.model_fields:
            instrument: Instrument | None = getattr(config.instruments, name)
            if instrument is None or not instrument.supervised:
                continue
            module, _, attribute = instrument.driver.partition(":")
            try:
                found = hasattr(importlib.import_module(module), attribute)
            except ImportError as error:
                raise ConfigurationError(
                    f"instruments.{name}.driver = {instrument.driver!r}: {error}; put the module into one of "
                    f"the folders of paths.python_path, or install it"
                ) from None
            if not found:
                raise ConfigurationError(
                    f"instruments.{name}.driver: module {module} has no class {attribute}"
                )
        ioc = config.facility.ioc
        if ioc is not None and importlib.util.find_spec(ioc) is None:
            raise ConfigurationError(f"facility.ioc = {ioc!r}: there is no such module")


@contextmanager
def _python_path(config: MontangoConfig) -> Iterator[None]:
    before = list(sys.path)
    sys.path[:0] = [str(path) for path in config.paths.python_path]
    try:
        yield
    finally:
        sys.path[:] = before
