"""A lab whose catalog has several users: what its server is told, and what the lab says of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from montango.cli.lab import _access
from montango.config import dump_config, load_config
from montango.lab.ports import Ports
from montango.lab.programs import TILED, programs
from montango.lab.state import StateDirectory
from tiled_server.configuration import ACCESS_VARIABLE


def test_the_server_is_told_of_the_file(tmp_path: Path) -> None:
    data = yaml.safe_load(dump_config(load_config()))
    data["services"]["tiled"]["access"] = "people.yaml"
    path = tmp_path / "montango.yaml"
    path.write_text(yaml.safe_dump(data))
    config = load_config(path)
    assert config.services.tiled.access == tmp_path / "people.yaml"
    for one, told in ((config, str(tmp_path / "people.yaml")), (load_config(), None)):
        state = StateDirectory(tmp_path / "state")
        (tiled,) = [
            program
            for program in programs(one, state, Ports(1, 2, 3, 4, 5, 6), tmp_path, {"KEY": "k"})
            if program.name == TILED
        ]
        assert tiled.environment.get(ACCESS_VARIABLE) == told


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("single user", "single user: whoever has the key may read and write everything"),
        ("/site/people.yaml", "several users: people of /site/people.yaml"),
        ("site", "as the site's server has it"),
        ("", "as the site's server has it"),
    ],
)
def test_a_line_says_who_may_do_what(how: str, said: str) -> None:
    assert _access(how) == said
