"""The file of people: who they are, how they say so, and which proposals they are on."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from devices.errors import ConfigurationError
from tiled_server.access.roles import Role

AUTHENTICATORS: Final = {
    "dictionary": "tiled.authenticators:DictionaryAuthenticator",
    "oidc": "tiled.authenticators:OIDCAuthenticator",
    "ldap": "tiled.authenticators:LDAPAuthenticator",
    "pam": "tiled.authenticators:PAMAuthenticator",
}
"""Short names of Tiled's own."""

_SECRETS: Final = ("password", "secret")
_VARIABLE: Final = re.compile(r"\$\{(\w+)\}")
_LONGEST: Final = 255
Name = str


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Provider(_Section):
    """One way of saying who one is."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$", description="name in addresses")
    authenticator: str = Field(
        pattern=r"^(dictionary|oidc|ldap|pam|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$",
        description="dictionary, oidc, ldap, pam, or MODULE:CLASS",
    )
    args: Mapping[str, Any] = Field(
        default_factory=dict, description="arguments; ${NAME}: a variable's value"
    )

    @property
    def class_name(self) -> str:
        """Module and class, as Tiled imports it."""
        return AUTHENTICATORS.get(self.authenticator, self.authenticator)


class Authentication(_Section):
    """How people say who they are; read at the start of the server only."""

    providers: tuple[Provider, ...] = Field(min_length=1, description="at least one")
    token_minutes: float = Field(
        default=15.0, ge=1, le=1440, description="how long a token opens the door, min"
    )
    session_days: float = Field(default=30.0, gt=0, le=366, description="until one has to log in again, days")
    anonymous: bool = Field(
        default=False, description="public proposals are shown to those who do not log in"
    )
    database: str | None = Field(
        default=None, description="PostgreSQL for accounts and keys; null: SQLite in the state directory"
    )

    @model_validator(mode="after")
    def _different(self) -> Authentication:
        names = [one.name for one in self.providers]
        if len(set(names)) < len(names):
            raise ValueError("two providers have one name; give each a name of its own")
        return self


class Person(_Section):
    """Somebody who logs in."""

    role: Role = Field(description=", ".join(one for one in Role if one is not Role.SERVICE))
    provider: str | None = Field(default=None, description="name of the provider; null: the only one")

    @field_validator("role")
    @classmethod
    def _no_service(cls, value: Role) -> Role:
        if value is Role.SERVICE:
            raise ValueError("service is no role of a person; a service has a key (see the documentation)")
        return value


class Proposal(_Section):
    """An allotment of time at the instrument, and who may see what it gave."""

    title: str = Field(default="", max_length=1000)
    members: tuple[Name, ...] = Field(default=(), description="keys of people")
    sessions: tuple[str, ...] = Field(
        default=(), description="other names of it in start documents (data_session, tags)"
    )
    public: bool = Field(default=False, description="shown to everyone who may log in")
    embargo_until: datetime | None = Field(
        default=None, description="public from this date on, of a public proposal; without a zone it is UTC"
    )

    @field_validator("embargo_until", mode="before")
    @classmethod
    def _as_time(cls, value: Any) -> Any:
        if isinstance(value, date) and not isinstance(value, datetime):
            return datetime.combine(value, time(), UTC)
        return value

    @field_validator("embargo_until")
    @classmethod
    def _with_zone(cls, value: datetime | None) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value

    @field_validator("members", "sessions", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        return (
            [str(one) if isinstance(one, int) else one for one in value] if isinstance(value, list) else value
        )

    @model_validator(mode="after")
    def _released(self) -> Proposal:
        if self.embargo_until is not None and not self.public:
            raise ValueError(
                "embargo_until is for a proposal that becomes public then; set public: true, or leave it out"
            )
        return self


class People(_Section):
    """The whole file."""

    authentication: Authentication
    people: Mapping[Name, Person] = Field(default_factory=dict)
    others: Literal["refuse", "observer"] = Field(
        default="refuse", description="those who log in and are not named: refused, or shown what is public"
    )
    proposals: Mapping[str, Proposal] = Field(default_factory=dict)

    @field_validator("people", "proposals", mode="before")
    @classmethod
    def _keys(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        short = {key: {"role": one} if isinstance(one, str) else one for key, one in value.items()}
        return {str(key) if isinstance(key, int) else key: one for key, one in short.items()}

    @model_validator(mode="after")
    def _consistent(self) -> People:
        for problem in _inconsistencies(self):
            raise ValueError(problem)
        return self

    def provider_of(self, name: Name) -> str:
        """Return the provider that a person logs in with."""
        return self.people[name].provider or self.authentication.providers[0].name


def _inconsistencies(file: People) -> Iterator[str]:
    providers = [one.name for one in file.authentication.providers]
    for name, person in file.people.items():
        if person.provider is None and len(providers) > 1:
            yield f"people.{name}.provider is missing: there are several ({', '.join(providers)})"
        if person.provider is not None and person.provider not in providers:
            yield f"people.{name}.provider = {person.provider!r} is none of {', '.join(providers)}"
    owners: dict[str, str] = {}
    for key, proposal in file.proposals.items():
        for member in proposal.members:
            if member not in file.people:
                yield f"proposals.{key}.members: {member!r} is not among people; add them there first"
        for tag in (key, *proposal.sessions):
            if tag in owners:
                yield f"proposals.{key}: {tag!r} is a name of proposal {owners[tag]!r} already"
            if why := bad_tag(tag):
                yield f"proposals.{key}: {tag!r} cannot be a name of a proposal: {why}"
            owners[tag] = key


def bad_tag(tag: str) -> str:
    """Return why a text cannot be an access tag; empty where it can."""
    if not tag or len(tag) > _LONGEST:
        return f"1 to {_LONGEST} characters are allowed"
    if tag.casefold() == "public" or tag.casefold().startswith(("user:", "service:")):
        return "public, user:... and service:... mean something to Tiled"
    return "" if tag.isprintable() else "it has characters that cannot be printed"


def load(path: Path, environment: Mapping[str, str] = os.environ) -> People:
    """Read and check a file of people.

    Parameters
    ----------
    path
        The YAML file.
    environment
        Variables that ``${NAME}`` in arguments of providers stands for.

    Raises
    ------
    ConfigurationError
        It cannot be read, a field is wrong, or it holds a password that others can read.
    """
    try:
        with path.open("rb") as file:
            data, mode = yaml.safe_load(file), os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise ConfigurationError(
            f"{path}: the file of people cannot be read ({error.strerror}); give its path with --access"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise ConfigurationError(f"{where}: not YAML ({getattr(error, 'problem', None) or error})") from None
    try:
        found = People.model_validate(data)
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {_sentence(error)}") from None
    expanded = [_expanded(path, one, mode, environment) for one in found.authentication.providers]
    database = _filled(path, "authentication.database", found.authentication.database, environment)
    authentication = found.authentication.model_copy(
        update={"providers": tuple(expanded), "database": database}
    )
    return found.model_copy(update={"authentication": authentication})


def _sentence(error: ValidationError) -> str:
    """Return the first mistake as one sentence: field, value, what is allowed."""
    details = sorted(error.errors(include_url=False), key=lambda one: one["type"] != "extra_forbidden")
    first = details[0]
    field = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return f"{field} is no key of a file of people{more}"
    if first["type"] == "missing":
        return f"{field} is missing{more}"
    if isinstance(first["input"], Mapping | Sequence) and not isinstance(first["input"], str):
        return f"{field}: {message}{more}" if field else f"{message}{more}"
    # a value of args may be a password
    shown = "" if field.startswith("authentication") and "args" in field else f" = {first['input']!r}"
    return f"{field}{shown}: {message}{more}" if field else f"the file is empty or no mapping: {message}"


def _expanded(path: Path, provider: Provider, mode: int, environment: Mapping[str, str]) -> Provider:
    place = f"authentication.providers {provider.name}: args"
    if mode & (stat.S_IRWXG | stat.S_IRWXO) and (name := next(_clear(provider.args), None)):
        raise ConfigurationError(
            f"{path}: {place}.{name} is in clear, and others than its owner can read the file (mode "
            f"{stat.S_IMODE(mode):o}); write ${{NAME}} and set the variable NAME, or: chmod 600 {path}"
        )
    return provider.model_copy(update={"args": _filled(path, place, dict(provider.args), environment)})


def _clear(values: Mapping[str, Any], secret: bool = False) -> Iterator[str]:
    """Yield the names of secrets that are not variables."""
    for name, value in values.items():
        inner = secret or any(word in str(name).lower() for word in _SECRETS)
        if isinstance(value, Mapping):
            for found in _clear(value, inner):
                yield f"{name}.{found}"
        elif inner and isinstance(value, str) and not _VARIABLE.fullmatch(value):
            yield str(name)


def _filled(path: Path, place: str, value: Any, environment: Mapping[str, str]) -> Any:
    """Return a value with its variables filled in."""

    def one(match: re.Match[str]) -> str:
        found = environment.get(match[1])
        if not found:
            raise ConfigurationError(
                f"{path}: {place} names the variable {match[1]}, which is not set; set it before the start"
            )
        return found

    if isinstance(value, str):
        return _VARIABLE.sub(one, value)
    if isinstance(value, Mapping):
        return {key: _filled(path, f"{place}.{key}", item, environment) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_filled(path, place, item, environment) for item in value]
    return value
