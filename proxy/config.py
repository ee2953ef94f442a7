"""The whole configuration: `config.toml`, then the environment, checked as one and refused as one.

Each layer keeps the model of its own table beside its code; here they are put together. Tables of plugins are part of
the same check, the tables of third-party plugins too: their classes are imported first, from `[pipeline] order`.
"""

import difflib
import importlib
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final, Self, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError
from typing_extensions import override

from plugins import REGISTRY
from proxy.admin.settings import AdminSettings
from proxy.errors import ConfigError, ConfigMistake
from proxy.logs import LogSettings
from proxy.pipeline.plugin import Plugin, PluginSettings
from proxy.pipeline.routes import DEFAULT_ROUTE_NAME, Route, compile_path
from proxy.server.settings import ServerSettings
from proxy.storage.settings import CacheTiers
from proxy.upstream.settings import UpstreamSettings

ENVIRONMENT_PREFIX: Final = "SIDECACHE_"
FILE_SUFFIX: Final = "_FILE"
MAX_WORKERS: Final = 128
DEFAULT_ORDER: Final = tuple(REGISTRY)

_PLUGINS: Final = "plugins"  # made at run time, so that no type knows it

PluginClass: TypeAlias = type[Plugin[Any]]


class Table(BaseModel):
    """A table of config.toml: unknown keys are mistakes, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PipelineSettings(Table):
    """`[pipeline]`.

    Attributes:
        order: plugins from the client to the upstream: built-in names, or `package.module:Class`.
    """

    order: tuple[str, ...] = DEFAULT_ORDER


def _path_template(value: object) -> object:
    if isinstance(value, str):
        compile_path(value)
    return value


def _one_or_many(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Strings: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(_one_or_many)]


class MatchSettings(Table):
    """`[routes.match]`: which requests a route takes; what is left out matches any.

    Attributes:
        path: `/items/{id}`: a placeholder stands for one segment; `/static/*`: a star at the end for any rest.
        method: one or several methods.
        host: one or several hosts; `*.example.com` for any name below.
    """

    path: Annotated[str, BeforeValidator(_path_template)] | None = None
    method: Strings = ()
    host: Strings = ()


class RouteSettings(Table):
    """`[[routes]]`: requests that share settings and a metric label. The first that matches wins."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.:/{}*-]+$")]
    match: MatchSettings = MatchSettings()

    def route(self) -> Route:
        """The route itself."""
        return Route(
            self.name,
            self.match.path,
            frozenset(method.upper() for method in self.match.method),
            tuple(host.lower() for host in self.match.host),
        )


class BaseConfig(BaseSettings):
    """What does not depend on the plugins in use. `load` gives it its `plugins` and `routes`.

    Attributes:
        workers: processes that serve the port. With more than one, each has its own L1, its own connections to the
            upstream and its own accounts: what is limited is limited in each.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, validate_default=True
    )

    workers: Annotated[int, Field(ge=1, le=MAX_WORKERS)] = 1
    server: ServerSettings = ServerSettings()
    admin: AdminSettings = AdminSettings()
    upstream: UpstreamSettings
    cache: CacheTiers = CacheTiers()
    log: LogSettings = LogSettings()
    pipeline: PipelineSettings = PipelineSettings()

    @override
    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over what is passed in, which is the file."""
        return env_settings, init_settings

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [route.name for route in getattr(self, "routes", ())]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"routes: two routes are called {name!r}; a route's name is its metric label")
            if name == DEFAULT_ROUTE_NAME:
                raise ValueError(f"routes: {name!r} is the name of the route that takes what no other matches")
        return self


class Config:
    """A configuration that has been checked.

    Attributes:
        source: the file it came from, for messages.
        values: every setting, defaults filled in.
        classes: the plugins in use, in order.
        text: what stood in the file; None: there is none. Loaded again in another process, it gives the same.
    """

    __slots__ = ("classes", "source", "text", "values")

    def __init__(
        self, source: str, values: BaseConfig, classes: tuple[PluginClass, ...], text: str | None = None
    ) -> None:
        self.source = source
        self.text = text
        self.values = values
        self.classes = classes

    @property
    def routes(self) -> tuple[RouteSettings, ...]:
        """The routes in order of matching."""
        return getattr(self.values, "routes", ())

    def settings(self, plugin: PluginClass, route: RouteSettings | None = None) -> PluginSettings:
        """The settings of `plugin` on `route`: the route's words over those of `[plugins.<name>]`; None: no route."""
        base: PluginSettings = getattr(self.values, _PLUGINS).__dict__[plugin.name]
        if route is None:
            return base
        tables: BaseModel = getattr(route, _PLUGINS)
        if plugin.name not in tables.model_fields_set:
            return base
        own: PluginSettings = tables.__dict__[plugin.name]
        return merge(base, own)

    def differences(self, other: "Config") -> list[str]:
        """Names of the tables that differ, those of which only a secret does too."""
        ours, theirs = self.view(), other.view()
        return sorted(
            name
            for name in ours
            if ours[name] != theirs.get(name)
            or (name in BaseConfig.model_fields and getattr(self.values, name) != getattr(other.values, name))
        )

    def view(self) -> dict[str, Any]:
        """Every setting as JSON values, secrets masked."""
        return self.values.model_dump(mode="json")


def merge(base: PluginSettings, override_: PluginSettings) -> PluginSettings:
    """`base` with what was said in `override_`, checked again as a whole.

    Raises:
        ValidationError: each is good alone, and they do not go together.
    """
    said = {name: getattr(override_, name) for name in override_.model_fields_set}
    return type(base).model_validate({**{name: getattr(base, name) for name in base.model_fields_set}, **said})


def import_plugin(reference: str) -> PluginClass:
    """The class that an item of `[pipeline] order` names.

    Raises:
        ValueError: there is none, with what to do about it.
    """
    if reference in REGISTRY:
        return REGISTRY[reference]
    module_name, colon, class_name = reference.partition(":")
    if not colon:
        close = difflib.get_close_matches(reference, REGISTRY, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"built-in plugins are {', '.join(REGISTRY)}"
        raise ValueError(f"there is no plugin {reference!r}; {hint} (others are named 'package.module:Class')")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except ImportError as error:
        raise ValueError(f"cannot import {module_name!r}: {error}") from error
    except AttributeError as error:
        raise ValueError(f"{module_name!r} has no {class_name!r}") from error
    except Exception as error:
        raise ValueError(f"importing {module_name!r} failed: {type(error).__name__}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Plugin)):
        raise ValueError(f"{reference!r} is no Plugin class")
    for attribute in ("name", "settings_type"):
        if not hasattr(found, attribute):
            raise ValueError(f"{reference!r} lacks the class attribute {attribute!r}")
    return found


@lru_cache(maxsize=8)
def config_model(classes: tuple[PluginClass, ...]) -> type[BaseConfig]:
    """The model of a configuration with these plugins: a typed table for each."""
    fields: dict[str, Any] = {}
    for plugin in dict.fromkeys((*REGISTRY.values(), *classes)):
        required = any(field.is_required() for field in plugin.settings_type.model_fields.values())
        default = ... if required else plugin.settings_type()
        fields[plugin.name] = (plugin.settings_type, default)
    optional: dict[str, Any] = {name: (kind, None) for name, (kind, _) in fields.items()}
    tables = create_model("PluginTables", __base__=Table, **fields)
    overrides = create_model("PluginOverrides", __base__=Table, **optional)
    route = create_model("Route", __base__=RouteSettings, plugins=(overrides, overrides()))
    routes: Any = tuple[route, ...]  # type: ignore[valid-type]  # a model made at run time
    default_tables = ... if any(default is ... for _, default in fields.values()) else tables()
    return create_model(
        "Config",
        __base__=BaseConfig,
        plugins=(tables, default_tables),
        routes=(routes, ()),
    )


def load(path: Path | None, text: str | None = None) -> Config:
    """Read and check the configuration.

    Args:
        path: config.toml; None: the environment alone.
        text: what stands in the file, where it has been read already.

    Raises:
        ConfigError: with every mistake that was found.
    """
    source = str(path) if path is not None else "the environment"
    if text is None and path is not None:
        text = _read(path, source)
    document = _parse(text, source) if text is not None else {}
    mistakes: list[ConfigMistake] = []
    secrets = _files_named_in_environment(mistakes)
    classes = _plugin_classes(document, mistakes)
    model = config_model(classes)
    mistakes += _unknown_variables(model)
    values: BaseConfig | None = None
    try:
        values = model(**_merge_tables(document, secrets))
        for index, route in enumerate(getattr(values, "routes", ())):
            mistakes += _clashes(Config(source, values, classes), index, route)
    except ValidationError as error:
        mistakes += [_mistake(details, model) for details in error.errors()]
    except SettingsError as error:
        mistakes.append(ConfigMistake("environment", str(error)))
    if mistakes or values is None:
        raise ConfigError(source, mistakes)
    return Config(source, values, classes, text)


def _read(path: Path, source: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(source, [ConfigMistake("file", f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise ConfigError(source, [ConfigMistake("file", f"is not UTF-8 text (byte {error.start})")]) from error


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(source, [ConfigMistake("file", f"is not TOML: {error}")]) from error


def _plugin_classes(document: Mapping[str, Any], mistakes: list[ConfigMistake]) -> tuple[PluginClass, ...]:
    table = document.get("pipeline")
    order = table.get("order", DEFAULT_ORDER) if isinstance(table, dict) else DEFAULT_ORDER
    from_environment = os.environ.get(f"{ENVIRONMENT_PREFIX}PIPELINE__ORDER")
    if from_environment is not None:
        order = [item.strip(" []\"'") for item in from_environment.split(",") if item.strip(" []\"'")]
    classes: list[PluginClass] = []
    names: set[str] = set()
    for index, reference in enumerate(order if isinstance(order, list | tuple) else ()):
        where = f"pipeline.order[{index}]"
        try:
            plugin = import_plugin(str(reference))
        except ValueError as error:
            mistakes.append(ConfigMistake(where, str(error)))
            continue
        if plugin.name in names:
            mistakes.append(ConfigMistake(where, f"the plugin {plugin.name!r} stands in the order already"))
        elif plugin.name in REGISTRY and REGISTRY[plugin.name] is not plugin:
            mistakes.append(ConfigMistake(where, f"{plugin.name!r} is the name of a built-in plugin"))
        else:
            names.add(plugin.name)
            classes.append(plugin)
    return tuple(classes)


def _clashes(config: Config, index: int, route: RouteSettings) -> Iterator[ConfigMistake]:
    """Overrides of a route that are good alone and do not go with the plugin's table."""
    for plugin in config.classes:
        try:
            config.settings(plugin, route)
        except ValidationError as error:
            for details in error.errors():
                where = _path(("routes", index, "plugins", plugin.name, *details["loc"]))
                yield ConfigMistake(where, details["msg"])


def _files_named_in_environment(mistakes: list[ConfigMistake]) -> dict[str, Any]:
    """Settings from files: `SIDECACHE_ADMIN__TOKEN_FILE=/run/secrets/token` sets `admin.token`."""
    tables: dict[str, Any] = {}
    for name, value in sorted(os.environ.items()):
        if not (name.startswith(ENVIRONMENT_PREFIX) and name.endswith(FILE_SUFFIX)):
            continue
        *parents, leaf = name.removeprefix(ENVIRONMENT_PREFIX).removesuffix(FILE_SUFFIX).lower().split("__")
        try:
            secret = Path(value).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            mistakes.append(ConfigMistake(name, f"the file {value!r} cannot be read: {error}"))
            continue
        table = tables
        for parent in parents:
            table = table.setdefault(parent, {})
        table[leaf] = secret
    return tables


def _merge_tables(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge_tables(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _unknown_variables(model: type[BaseConfig]) -> Iterator[ConfigMistake]:
    """Variables with our prefix whose first part is no table: they would be passed over in silence."""
    for name in sorted(os.environ):
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        table = name.removeprefix(ENVIRONMENT_PREFIX).partition("__")[0].lower()
        if table not in model.model_fields:
            hint = _did_you_mean(table, model.model_fields)
            yield ConfigMistake(name, f"this variable sets nothing: there is no table {table!r}{hint}")


def _mistake(details: ErrorDetails, model: type[BaseModel]) -> ConfigMistake:
    location = [part for part in details["loc"] if not (isinstance(part, str) and part.startswith("function-"))]
    message = details["msg"].removeprefix("Value error, ")
    if details["type"] == "extra_forbidden":
        message = f"unknown setting{_did_you_mean(str(location[-1]), _fields_at(model, location[:-1]))}"
    elif details["type"] == "missing":
        message = "this setting is required"
    elif details["type"] not in ("value_error", "model_type") and isinstance(
        details["input"], str | int | float | bool
    ):
        message = f"{message}, not {details['input']!r}"
    variable = ENVIRONMENT_PREFIX + "__".join(str(part).upper() for part in location)
    if variable in os.environ:
        message += f" (set by {variable})"
    return ConfigMistake(_path(location), message)


def _path(location: Sequence[int | str]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "configuration"


def _fields_at(model: type[BaseModel], location: Sequence[int | str]) -> Iterable[str]:
    """Names of the settings in the table at `location`."""
    here: Any = model
    for part in location:
        if isinstance(part, int):
            continue
        field = here.model_fields.get(part) if isinstance(here, type) and issubclass(here, BaseModel) else None
        if field is None:
            return ()
        here = field.annotation
        if not isinstance(here, type):  # tuple[Route, ...]
            here = next((a for a in getattr(here, "__args__", ()) if isinstance(a, type)), None)
    return here.model_fields if isinstance(here, type) and issubclass(here, BaseModel) else ()


def _did_you_mean(word: str, names: Iterable[str]) -> str:
    known = list(names)
    close = difflib.get_close_matches(word, known, 1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known here: {', '.join(sorted(known))}" if known else ""
