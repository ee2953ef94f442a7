"""`[admin]`: the listener that operators, probes and scrapers reach."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationInfo,
    field_validator,
)

from proxy.address import Address, ListenAddress

MIN_TOKEN_CHARS = 16


def _read_token(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the file {str(path)!r} cannot be read: {error}") from error


def _readable(path: Path) -> Path:
    _read_token(path)
    return path


def _token(token: SecretStr) -> SecretStr:
    text = token.get_secret_value()
    if len(text) < MIN_TOKEN_CHARS:
        raise ValueError(f"a token has at least {MIN_TOKEN_CHARS} characters")
    if not all("!" <= character <= "~" for character in text):
        raise ValueError("a token is made of visible ASCII characters, without spaces")
    return token


class AdminSettings(BaseModel):
    """`[admin]`.

    Attributes:
        token_file: a file that holds the token; read at start.
        token: what callers send as `Authorization: Bearer …`; without one, only this machine may call.
        listen: where callers connect; anything but loopback or a Unix socket needs a token.
        open_health: `/health` and `/ready` need no token, so that probes can be written without one.
        max_body_bytes: of a request's body; more is answered 413.
        body_timeout_seconds: for a request's body to arrive.
        warmup_max_requests: URLs times variants of one warm-up.
        warmup_max_concurrency: requests of one warm-up under way at a time, whatever is asked for.
        warmup_max_running: warm-ups under way at a time; one more is answered 429.
        warmup_max_kept: warm-ups whose results are remembered.
        warmup_timeout_seconds: for one response of a warm-up, body and all.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    # In this order: each of the first three is checked with what stands before it.
    token_file: Annotated[Path, AfterValidator(_readable)] | None = None
    token: Annotated[SecretStr, AfterValidator(_token)] | None = Field(default=None, validate_default=True)
    listen: ListenAddress = Address("127.0.0.1", 9090)
    open_health: bool = True
    max_body_bytes: Annotated[int, Field(ge=1024)] = 1_048_576
    body_timeout_seconds: PositiveFloat = 15.0
    warmup_max_requests: PositiveInt = 10_000
    warmup_max_concurrency: PositiveInt = 16
    warmup_max_running: PositiveInt = 4
    warmup_max_kept: PositiveInt = 16
    warmup_timeout_seconds: PositiveFloat = 60.0

    @field_validator("token", mode="before")
    @classmethod
    def _token_from_file(cls, value: Any, info: ValidationInfo) -> Any:
        path = info.data.get("token_file")
        if path is None:
            return value
        inside = _read_token(path)
        given = value.get_secret_value() if isinstance(value, SecretStr) else value
        if given is not None and given != inside:
            raise ValueError("there are a token and a token_file, and they differ: remove one of them")
        return inside

    @field_validator("listen")
    @classmethod
    def _reachable_only_with_token(cls, listen: Address, info: ValidationInfo) -> Address:
        # A token that is wrong is not in `data`, and is a mistake of its own.
        if not listen.loopback and info.data.get("token", "") is None:
            raise ValueError(
                f"'{listen}' can be reached by others: set admin.token (SIDECACHE_ADMIN__TOKEN_FILE), "
                "or listen on 127.0.0.1, [::1] or a Unix socket"
            )
        return listen
