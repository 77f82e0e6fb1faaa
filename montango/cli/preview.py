"""The command that shows a montage before anything moves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from devices.errors import ConfigurationError
from montango.cli.options import Choice, chosen

if TYPE_CHECKING:
    from montango.circumstances import Circumstances
    from plans.specs.montage import MontageSpec


def preview(
    context: typer.Context,
    spec: Annotated[Path, typer.Argument(help="the montage's specification, YAML or JSON")],
    nav: Annotated[
        Path | None, typer.Option(help="SerialEM navigator file whose items say where the montage is")
    ] = None,
    item: Annotated[
        list[str] | None, typer.Option(help="label of an item of --nav, as often as wanted; default: all")
    ] = None,
    rois: Annotated[
        Path | None, typer.Option(help="list of regions or positions that says where, JSON or CSV")
    ] = None,
    png: Annotated[
        Path | None, typer.Option(help="draw tiles, order, regions and limits to this file")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
    pixel_size_nm: Annotated[float | None, typer.Option(min=0.001, help="pixel of a frame, nm")] = None,
    width_px: Annotated[int | None, typer.Option(min=1, help="width of a frame, px")] = None,
    height_px: Annotated[int | None, typer.Option(min=1, help="height of a frame, px")] = None,
    rotation_deg: Annotated[
        float | None, typer.Option(min=-360, max=360, help="from camera to stage axes, deg")
    ] = None,
) -> None:
    """Show what a montage will be: tiles, bytes, dose, time; exit status 1 if it would be refused."""
    from plans.preview import preview as make_preview

    wanted = _specification(spec, nav, item or [], rois)
    found = _circumstances(chosen(context), wanted)
    from montango.circumstances import with_frame

    found = with_frame(
        found,
        pixel_size_nm=pixel_size_nm,
        width_px=width_px,
        height_px=height_px,
        rotation_deg=rotation_deg,
    )
    assert found.view is not None
    result = make_preview(
        wanted,
        found.view,
        centre_um=found.centre_um,
        limits=found.limits,
        beam=found.beam,
        timing=found.timing,
    )
    picture = result.draw(png) if png is not None else None
    if as_json:
        shown = {"source": found.source, "png": str(picture) if picture else None, **result.as_dict()}
        print(json.dumps(shown, indent=2))
    else:
        print(f"from {found.source}\n{result.as_text()}")
        if picture is not None:
            print(f"drawn in {picture}")
    raise typer.Exit(1 if result.refusals else 0)


def _specification(path: Path, nav: Path | None, items: list[str], rois: Path | None) -> MontageSpec:
    """Return the specification, with the place that a navigator or a list of regions says."""
    from montango.spec_file import read_spec

    if nav is not None and rois is not None:
        raise ConfigurationError("--nav and --rois both say where the montage is; give one of them")
    if items and nav is None:
        raise ConfigurationError("--item names an item of a navigator file; give the file with --nav")
    place: dict[str, Any] | None = None
    if nav is not None:
        from plans.specs.importers.navigator import place_of, read_nav

        place = place_of(read_nav(nav), items, str(nav))
    elif rois is not None:
        from plans.specs.importers.roi_list import read_roi_list

        place = read_roi_list(rois)
    return read_spec(path, place)


def _circumstances(choice: Choice, spec: MontageSpec) -> Circumstances:
    """Return what the lab that is up says; where none is, the configuration."""
    from montango.circumstances import configured, present

    lab = choice.existing_lab()
    if lab.find() is None:
        return configured(choice.load_config(), spec)
    return present(lab.connect(), spec)
