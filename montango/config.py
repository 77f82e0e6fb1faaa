"""``montango.yaml``: which instruments, drivers and services a laboratory has.

`load_config` reads one, `dump_config` writes one back: ``load_config`` of a file that holds
``dump_config(config)`` equals ``config``. Relative paths in a file are taken from the folder of the file.
Every mistake is reported as one `ConfigurationError` with file, line, key, value and what is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from devices.errors import ConfigurationError
from devices.stage.driver import StageLimits
from montango._config_errors import explain
from montango._config_parts import check_parts, check_signal
from montango._yaml_marks import read_marked
from plans.suspenders import SuspenderSpec
from sim.config import SimulationConfig

DEVICE_NAME = r"^[A-Za-z0-9_.\-]+/[A-Za-z0-9_.\-]+/[A-Za-z0-9_.\-]+$"
DRIVER_NAME = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
MODULE_NAME = r"^[A-Za-z_][\w.]*$"
LAB_NAME = r"^[a-z0-9][a-z0-9_-]{0,30}$"
HOST_PORT = r"^[A-Za-z0-9_.\-]+:[0-9]{1,5}$"


def _resolve(path: Path, info: ValidationInfo) -> Path:
    base = (info.context or {}).get("base")
    path = path.expanduser()
    return path if base is None else (base / path).resolve()


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if not pair[0] < pair[1]:
        raise ValueError("the lower limit comes first and must be below the upper one")
    return pair


LocalPath = Annotated[Path, AfterValidator(_resolve)]
Limits = Annotated[tuple[float, float], AfterValidator(_ascending)]
Port = Annotated[int, Field(ge=1024, le=65535)]


class Section(BaseModel):
    """A section of the file: immutable, and a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class LabSection(Section):
    """The laboratory as a whole."""

    name: str = Field(
        default="simulated",
        pattern=LAB_NAME,
        examples=["simulated"],
        description="lower case, names the state directory",
    )
    start_timeout_s: float = Field(
        default=60, ge=5, le=600, description="time the instruments have to answer after `montango up`, s"
    )


class PathsSection(Section):
    """Where things are kept. null is a place inside the state directory."""

    state_dir: LocalPath | None = Field(
        default=None,
        description="null: ~/.local/state/montango/NAME; --state and $MONTANGO_STATE win",
    )
    data_dir: LocalPath | None = Field(default=None, description="frames; null: data/ in the state directory")
    ring_dir: LocalPath | None = Field(
        default=None, description="frame rings; null: /dev/shm where it is large enough"
    )
    python_path: tuple[LocalPath, ...] = Field(
        default=(), description="folders that hold the site's own drivers"
    )
    minimum_free_gb: float = Field(
        default=2.0, ge=0, le=1e6, description="free space below which the lab does not start, GB"
    )


class Instrument(Section):
    """One instrument: its Tango device and the driver behind it."""

    device: str = Field(pattern=DEVICE_NAME, examples=["em/stage/1"], description="name of the Tango device")
    supervised: bool = Field(
        default=True, description="false: the site starts this server, the lab only uses it"
    )
    driver: str = Field(
        pattern=DRIVER_NAME,
        examples=["sim.stage:SimulatedStage"],
        description="class that talks to the hardware",
    )
    options: Mapping[str, Any] = Field(default_factory=dict, description="keyword arguments of the driver")


class LimitsSection(Section):
    """Soft limits of the stage, lower and upper, um and deg."""

    x_um: Limits = StageLimits().x_um
    y_um: Limits = StageLimits().y_um
    z_um: Limits = StageLimits().z_um
    alpha_deg: Limits = StageLimits().alpha_deg
    beta_deg: Limits = StageLimits().beta_deg


class StageSection(Instrument):
    """The stage, with its soft limits."""

    limits: LimitsSection = LimitsSection()


class CameraSection(Instrument):
    """The camera, with its ring of frames."""

    ring_slots: int = Field(default=8, ge=2, le=1024, description="frames the ring holds for live readers")
    readout_timeout_s: float = Field(
        default=30.0,
        gt=0,
        le=50,
        description="longest time from the end of an exposure to its frame on disk, s",
    )


class SequencerSection(Instrument):
    """The sequencer; its driver is given the Tango devices ``stage``, ``camera``, ``column`` as options."""

    driver: str = Field(
        default="devices.sequencer.software:SoftwareSequencer",
        pattern=DRIVER_NAME,
        examples=["devices.sequencer.software:SoftwareSequencer"],
        description="class that runs tables of tiles",
    )


class ControlSection(Instrument):
    """The state of the montage that runs, which any process may watch and steer."""

    device: str = Field(
        default="em/control/1",
        pattern=DEVICE_NAME,
        examples=["em/control/1"],
        description="name of the Tango device",
    )
    driver: str = Field(
        default="devices.montage_control.board:Board",
        pattern=DRIVER_NAME,
        examples=["devices.montage_control.board:Board"],
        description="class that keeps progress and requests; its option lost_after_s is 5",
    )


class InstrumentsSection(Section):
    """The instruments of the laboratory."""

    column: Instrument
    stage: StageSection
    camera: CameraSection
    sequencer: SequencerSection
    loader: Instrument | None = Field(default=None, description="null: samples are changed by hand")
    control: ControlSection = ControlSection()


class FacilitySection(Section):
    """Signals of the building, read by EPICS Channel Access."""

    prefix: str = Field(
        default="MTG:",
        pattern=r"^[A-Za-z0-9_:.\-]{1,40}$",
        examples=["MTG:"],
        description="start of every PV's name",
    )
    ioc: str | None = Field(
        default=None,
        pattern=MODULE_NAME,
        examples=["sim.facility_ioc"],
        description="module to start; null: the site's IOC",
    )
    environment: Mapping[str, str] = Field(
        default_factory=dict, description="EPICS_* variables of the site's network"
    )


class TangoService(Section):
    """The Tango database."""

    host: str | None = Field(
        default=None,
        pattern=HOST_PORT,
        examples=["tango.site.org:10000"],
        description="null: one of the lab's own",
    )
    port: Port | None = Field(
        default=None, description="fixed port of the lab's own database; null: a free one"
    )


class TiledService(Section):
    """The catalog."""

    uri: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s]+$",
        examples=["https://tiled.site.org"],
        description="null: a server of the lab's own",
    )
    port: Port | None = Field(
        default=None, description="fixed port of the lab's own server; null: a free one"
    )
    database: str | None = Field(
        default=None,
        pattern=r"^postgresql\+?[a-z]*://",
        examples=["postgresql://user@host/tiled"],
        description="the catalog's own; null: SQLite in the state directory",
    )
    tables: str | None = Field(
        default=None,
        pattern=r"^postgresql\+?[a-z]*://",
        examples=["postgresql://user@host/tiled_tables"],
        description="tables of events; null: SQLite in the state directory",
    )
    mongo: str | None = Field(
        default=None,
        pattern=r"^mongodb(\+srv)?://",
        examples=["mongodb://user@host/bluesky"],
        description="database that runs are written to as well, and served from; null: none",
    )
    readable: tuple[LocalPath, ...] = Field(
        default=(), description="folders beside paths.data_dir whose files the lab's own server may serve"
    )
    access: LocalPath | None = Field(
        default=None,
        description="file of people, roles and proposals; null: whoever has the key may do everything",
    )
    api_key_env: str = Field(
        default="TILED_API_KEY",
        pattern=r"^[A-Za-z_]\w*$",
        examples=["TILED_API_KEY"],
        description="environment variable with the key of the site's server",
    )


class ServicesSection(Section):
    """Services that the instruments and the analysts need."""

    tango: TangoService = TangoService()
    tiled: TiledService = TiledService()


class ProcessingSection(Section):
    """What is worked out of a montage while it runs, beside verdicts and overview."""

    live_mosaic: bool = Field(
        default=True, description="stitch each montage into an OME-Zarr while it runs; false: offline only"
    )
    live_mosaic_blending: Literal["flat", "feather"] = Field(
        default="flat",
        description="flat: seams in the middle of the overlaps, no pixel mixed; feather: blended over them",
    )
    live_mosaic_match_brightness: bool = Field(
        default=False, description="give each tile a gain that makes overlaps alike; false: camera's counts"
    )


class MontangoConfig(Section):
    """A whole ``montango.yaml``."""

    lab: LabSection = LabSection()
    paths: PathsSection = PathsSection()
    instruments: InstrumentsSection
    facility: FacilitySection = FacilitySection()
    services: ServicesSection = ServicesSection()
    simulation: SimulationConfig | None = Field(
        default=None, description="the virtual microscope; null: real hardware only"
    )
    qc: Mapping[str, Any] = Field(default_factory=dict, description="thresholds of the verdict on a tile")
    montage: Mapping[str, Any] = Field(
        default_factory=dict, description="defaults of a montage's specification"
    )
    processing: ProcessingSection = ProcessingSection()
    suspenders: tuple[SuspenderSpec, ...] = Field(
        default=(), description="signals that hold a montage while they are outside their limits"
    )

    @field_validator("suspenders")
    @classmethod
    def _known_signals(cls, value: tuple[SuspenderSpec, ...]) -> tuple[SuspenderSpec, ...]:
        for suspender in value:
            check_signal(suspender.signal)
        return value

    _source: Path | None = PrivateAttr(None)

    @property
    def source(self) -> Path | None:
        """The file it was read from, if any."""
        return self._source

    def __eq__(self, other: object) -> bool:
        """Compare what is configured; the file it was read from does not count."""
        return isinstance(other, MontangoConfig) and self.model_dump() == other.model_dump()


def default_config_path() -> Path:
    """Return the ``montango.yaml`` of the simulated profile that is installed with Montango."""
    return Path(str(resources.files("profiles.simulated") / "montango.yaml"))


def load_config(path: Path | str | None = None) -> MontangoConfig:
    """Read and check a ``montango.yaml``; None is the one of the simulated profile.

    Raises
    ------
    ConfigurationError
        The file cannot be read, is not YAML, or a key or value is wrong: one line that says where, what, and
        what would be right.
    """
    source = default_config_path() if path is None else Path(path).expanduser().absolute()
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(
            f"{source}: cannot be read ({reason}); give the path of a montango.yaml with --config"
        ) from error
    data, marks = read_marked(text, source)
    _anchor_specimen(data, source.parent)
    where = partial(_at, marks, source)
    try:
        config = MontangoConfig.model_validate(data, context={"base": source.parent})
    except ValidationError as error:
        raise ConfigurationError(explain(error, MontangoConfig, data, where)) from None
    check_parts(data, where)
    config._source = source
    return config


def _anchor_specimen(data: dict[str, Any], base: Path) -> None:
    """Take a specimen's relative path from the folder of the configuration, as every other path in it."""
    specimen = simulation.get("specimen") if isinstance(simulation := data.get("simulation"), dict) else None
    for key in ("file", "folder"):
        if isinstance(specimen, dict) and isinstance(specimen.get(key), str):
            specimen[key] = str(base / Path(specimen[key]).expanduser())


def _at(marks: Mapping[tuple[str | int, ...], int], source: Path, location: tuple[str | int, ...]) -> str:
    while location not in marks and location:
        location = location[:-1]
    return f"{source}, line {marks.get(location, 1)}"


def dump_config(config: MontangoConfig) -> str:
    """Return the configuration as YAML that `load_config` reads back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def config_schema() -> dict[str, Any]:
    """Return the JSON schema of ``montango.yaml``, for editors that complete and check it."""
    return MontangoConfig.model_json_schema()
