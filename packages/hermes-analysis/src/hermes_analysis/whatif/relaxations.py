"""What can be relaxed in a scenario, as values to set: one more client, twice a device's figures, no host overhead."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Final

from hermes_analysis.simulator import refusal

FIGURES: Final = "hermes.device_figures"
"""Entry-point group. The entry `default` is called with a device's name and returns its figures."""
_FREE_HOST: Final = (
    "host_base=0 ns",
    "host_per_seq=0 ns",
    "front_end={request: 0 ns, per_prompt_token: 0 ns, per_stream: 0 ns}",
)
_GIGA: Final = 1e9


@dataclass(frozen=True, slots=True)
class Relaxation:
    """One thing relaxed: `sets` are the values, `base` those that the run beside it has instead.

    A device whose figures are stated may be priced otherwise than the one of the catalogue (by a roofline, where there
    are tables of measurements). So a doubled figure is compared with the same figures, stated and not doubled.
    """

    name: str
    sets: tuple[str, ...]
    base: tuple[str, ...] = ()


def relaxations(written: Mapping[str, Any], resolved: Mapping[str, Any]) -> list[Relaxation]:
    """Return what can be relaxed in a scenario, as it was `written` and as it was `resolved`."""
    found = [*_clients(written, resolved), *_devices(resolved), *_engines(written, resolved)]
    return [*found, *_moves(written, resolved), *_network(resolved), *_store(written, resolved)]


def _clients(written: Mapping[str, Any], resolved: Mapping[str, Any]) -> Iterator[Relaxation]:
    for name, pool in resolved["pools"].items():
        if pool.get("autoscale"):
            continue
        path = _pool(written, name, "clients") if "pools" in written else "replicas"
        yield Relaxation(f"{name}: one more client", (f"{path}={pool['clients'] + 1}",))


def _devices(resolved: Mapping[str, Any]) -> Iterator[Relaxation]:
    figures = {entry.name: entry for entry in entry_points(group=FIGURES)}
    if "default" not in figures:
        return
    sheet_of = figures["default"].load()
    joined: dict[str, bool] = {}
    for pool in resolved["pools"].values():
        hardware = pool.get("hardware") or {}
        if pool.get("engine") and hardware.get("device"):
            several = hardware.get("tensor_parallel", 1) * hardware.get("expert_parallel", 1) > 1
            joined[hardware["device"]] = joined.get(hardware["device"], False) or several
    written = resolved.get("devices") or {}
    for device, several in joined.items():
        try:
            sheet = sheet_of(device, written.get(device))
        except Exception as error:
            if refusal(error) is None:
                raise
            continue  # its figures are known to the service that prices it
        at = f'devices."{device}"'
        parts = {
            "compute": ("flops", {name: rate / 1e12 for name, rate in sheet["flops"].items()}, "TFLOP/s"),
            "memory bandwidth": ("bandwidth", sheet["memory_bandwidth_bytes_per_s"] / _GIGA, "GB/s"),
            "memory": ("memory", sheet["memory_bytes"] / _GIGA, "GB"),
        }
        if several:
            link = sheet["interconnect_bandwidth_bytes_per_s"] / _GIGA
            parts["interconnect"] = ("interconnect.bandwidth", link, "GB/s")
        stated = tuple(f"{at}.{key}={_quantity(value, unit, 1)}" for key, value, unit in parts.values())
        for name, (key, value, unit) in parts.items():
            doubled = f"{at}.{key}={_quantity(value, unit, 2)}"
            yield Relaxation(f"{device}: twice the {name}", (*stated, doubled), base=stated)


def _quantity(value: Any, unit: str, factor: int) -> str:
    if isinstance(value, Mapping):
        inside = ", ".join(f"{name}: {rate * factor:.9g} {unit}" for name, rate in value.items())
        return f"{{{inside}}}"
    return f"{value * factor:.9g} {unit}"


def _engines(written: Mapping[str, Any], resolved: Mapping[str, Any]) -> Iterator[Relaxation]:
    for name, pool in resolved["pools"].items():
        engine = pool.get("engine")
        if not engine:
            continue
        at = _pool(written, name, "engine") if "pools" in written else "engine"
        yield Relaxation(f"{name}: no host overhead", tuple(f"{at}.{part}" for part in _FREE_HOST))
        for key in ("max_num_seqs", "max_num_batched_tokens"):
            if engine.get(key):
                yield Relaxation(f"{name}: twice {key}", (f"{at}.{key}={2 * engine[key]}",))


def _moves(written: Mapping[str, Any], resolved: Mapping[str, Any]) -> Iterator[Relaxation]:
    """Yield faster hand-overs of KV, where prefill and decode are apart and no topology joins them."""
    if resolved.get("topology"):
        return
    for name, pool in resolved["pools"].items():
        move = pool.get("kv_transfer")
        if move and "prefill" not in pool["stages"]:
            rate = move["bandwidth_bytes_per_s"] / _GIGA
            yield Relaxation(
                f"{name}: KV comes twice as fast",
                (f"{_pool(written, name, 'kv_transfer')}.bandwidth={2 * rate:.9g} GB/s",),
            )


def _network(resolved: Mapping[str, Any]) -> Iterator[Relaxation]:
    links = (resolved.get("topology") or {}).get("links")
    if not isinstance(links, Mapping):
        return
    for name, link in links.items():
        rate = link.get("bandwidth_bytes_per_s") if isinstance(link, Mapping) else None
        if rate:
            yield Relaxation(
                f"{name} links: twice as wide", (f"topology.links.{name}.bandwidth={2 * rate / _GIGA:.9g} GB/s",)
            )


def _store(written: Mapping[str, Any], resolved: Mapping[str, Any]) -> Iterator[Relaxation]:
    tiers = (resolved.get("kv_store") or {}).get("tiers")
    given = (written.get("kv_store") or {}).get("tiers") if isinstance(written.get("kv_store"), Mapping) else None
    if not isinstance(tiers, list) or not isinstance(given, list) or len(given) != len(tiers):
        return
    for place, tier in enumerate(tiers):
        for key, field, unit in (("capacity", "capacity_bytes", "GB"), ("bandwidth", "bandwidth_bytes_per_s", "GB/s")):
            value = tier.get(field)
            if value:
                text = f"kv_store.tiers[{place}].{key}={2 * value / _GIGA:.9g} {unit}"
                yield Relaxation(f"KV tier {tier.get('name', place)}: twice the {key}", (text,))


def _pool(written: Mapping[str, Any], name: str, key: str) -> str:
    del written
    plain = name.replace("_", "").replace("-", "").isalnum()
    return f"pools.{name}.{key}" if plain else f'pools."{name}".{key}'
