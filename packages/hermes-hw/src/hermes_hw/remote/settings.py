"""What a scenario says about a hardware service: under `devices.NAME.remote`, or inline in the hardware's options."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hermes_core.api.errors import InputError, Place
from hermes_core.api.hardware import Deployment
from hermes_core.rpc import ChannelSecurity, TlsFiles, read_token

from hermes_hw.client import Target
from hermes_hw.lookup import find_name, normalised
from hermes_hw.options import place_of
from hermes_hw.resolve import COMMON_OPTIONS

KEYS: Final = (
    *("command", "address", "python", "config", "seed", "ask", "outside", "fallback", "cache", "timeout_ns"),
    *("tls", "token_file", "token_env", "insecure"),
)
_CHOICES: Final = {
    "ask": ("auto", "operators", "steps"),
    "outside": ("label", "refuse"),
    "fallback": ("refuse", "roofline"),
}
_TLS: Final = ("ca", "certificate", "key", "server_name")


@dataclass(frozen=True, slots=True)
class RemoteSettings:
    """A service, and how it is asked."""

    target: Target
    config: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    ask: str = "auto"
    """"steps" or "operators"; "auto" takes steps where the service prices them."""
    outside: str = "label"
    """What to do with shapes that the service does not price: extrapolate and label them, or refuse."""
    fallback: str = "refuse"
    """Who prices kinds of operators that the service does not: nobody, or the roofline."""
    cache: Path | None = None
    """File that keeps answers between runs."""
    where: str = "config"
    """Where the configuration stands, for messages."""


def settings_of(deployment: Deployment) -> RemoteSettings:
    """Return the settings of a deployment. Raises InputError for keys and values that cannot be."""
    spec = (deployment.device_spec or {}).get("remote") or {}
    inline = {key: value for key, value in deployment.options.items() if key not in COMMON_OPTIONS}
    given: dict[str, Any] = {**spec, **inline}
    device = deployment.device

    def place(key: str) -> Place:
        return place_of(key) if key in inline else Place(path=f"devices.{device}.remote.{key}")

    if "token" in given:
        raise InputError(
            f"device {device!r}: a token does not stand in a scenario",
            place=place("token"),
            remedy="Give token_file or token_env.",
        )
    for key in given:
        spellings = {normalised(name): name for name in KEYS}
        find_name(str(key), spellings, f"setting of the service of {device!r}:", KEYS, place(key))
    for key, known in _CHOICES.items():
        if given.get(key, known[0]) not in known:
            raise InputError(
                f"device {device!r}: remote.{key} {given[key]!r} is unknown",
                place=place(key),
                remedy=f"Known: {', '.join(known)}.",
            )
    where = f"devices.{device}.remote.config" if spec else "hardware.options.config"
    config = given.get("config", {})
    if not isinstance(config, Mapping):
        raise InputError(f"device {device!r}: {where} is {config!r}, not a mapping", place=place("config"))
    command = given.get("command") or ()
    if isinstance(command, str) or not all(isinstance(word, str) for word in command):
        raise InputError(
            f"device {device!r}: remote.command is {command!r}, not a list of words",
            place=place("command"),
            remedy='Write it as ["python", "vendor.py"]; no shell reads it.',
        )
    return RemoteSettings(
        target=Target(
            name=f"{device!r}",
            command=tuple(command),
            address=_text(given, "address"),
            python=_text(given, "python"),
            security=_security(given, device),
            deadline_s=_seconds(given, device),
        ),
        config=dict(config),
        seed=int(given.get("seed", 0)),
        ask=given.get("ask", "auto"),
        outside=given.get("outside", "label"),
        fallback=given.get("fallback", "refuse"),
        cache=Path(given["cache"]) if given.get("cache") else None,
        where=where,
    )


def _text(given: Mapping[str, Any], key: str) -> str:
    return str(given.get(key) or "")


def _seconds(given: Mapping[str, Any], device: str) -> float | None:
    value = given.get("timeout_ns")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise InputError(f"device {device!r}: remote.timeout_ns must be a positive number, found {value!r}")
    return float(value) / 1e9


def _security(given: Mapping[str, Any], device: str) -> ChannelSecurity:
    tls = given.get("tls")
    files, server_name = None, None
    if tls is not None:
        if not isinstance(tls, Mapping):
            raise InputError(f"device {device!r}: remote.tls is {tls!r}, not a mapping")
        for key in tls:
            find_name(str(key), {normalised(name): name for name in _TLS}, f"key of remote.tls of {device!r}:", _TLS)
        files = TlsFiles(*(Path(tls[key]) if tls.get(key) else None for key in _TLS[:3]))
        server_name = tls.get("server_name")
    token = read_token(
        file=Path(given["token_file"]) if given.get("token_file") else None, variable=given.get("token_env")
    )
    return ChannelSecurity(files, token, bool(given.get("insecure", False)), server_name, consent="insecure: true")
