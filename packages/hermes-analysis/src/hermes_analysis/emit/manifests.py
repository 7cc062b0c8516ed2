"""A compose file, and Kubernetes manifests, that start the engines of a scenario with a router in front."""

from collections.abc import Iterator
from typing import Any, Final

from hermes_analysis.emit.engines import PORT, router_command, sglang_command, vllm_command
from hermes_analysis.emit.pools import EnginePool

IMAGES: Final = {False: "vllm/vllm-openai:latest", True: "lmsysorg/sglang:latest"}
_ROUTER_IMAGES: Final = {False: "python:3.12-slim", True: "lmsysorg/sglang:latest"}
_CACHE: Final = "/models"
"""Where the containers keep weights: said by HF_HOME, so that it does not matter as whom an image runs."""
_SHM: Final = "16g"


def is_sglang(pools: tuple[EnginePool, ...]) -> bool:
    """Say whether the pools' presets are SGLang's; everything else is started as vLLM."""
    return all(str(pool.engine["preset"]).startswith("sglang") for pool in pools)


def compose(name: str, pools: tuple[EnginePool, ...]) -> dict[str, Any]:
    """Return a compose file (Compose Specification): a service for each engine, pinned to accelerators of its own."""
    sglang = is_sglang(pools)
    services: dict[str, Any] = {}
    urls: dict[str, list[str]] = {}
    first = 0
    for pool in pools:
        urls[pool.name] = []
        for number in range(pool.clients):
            service = f"{pool.host}-{number}"
            urls[pool.name].append(f"http://{service}:{PORT}")
            devices = [str(device) for device in range(first, first + pool.devices)]
            first += pool.devices
            services[service] = _engine_service(pool, devices, sglang=sglang)
    services["router"] = {
        "image": _ROUTER_IMAGES[sglang],
        "command": _router(pools, urls, sglang=sglang),
        "ports": [f"{PORT}:{PORT}"],
        "depends_on": {service: {"condition": "service_healthy"} for service in services},
        "restart": "unless-stopped",
    }
    return {"name": _dns(name), "services": services, "volumes": {"models": {}}}


def kubernetes(name: str, pools: tuple[EnginePool, ...]) -> list[dict[str, Any]]:
    """Return manifests (apps/v1, v1): a StatefulSet and a headless Service for each pool, and the router."""
    sglang = is_sglang(pools)
    app = _dns(name)
    urls = {
        pool.name: [f"http://{app}-{pool.host}-{n}.{app}-{pool.host}:{PORT}" for n in range(pool.clients)]
        for pool in pools
    }
    documents = [document for pool in pools for document in _pool_documents(app, pool, sglang=sglang)]
    labels = {"app.kubernetes.io/name": app, "app.kubernetes.io/component": "router"}
    container = {
        "name": "router",
        "image": _ROUTER_IMAGES[sglang],
        "command": _router(pools, urls, sglang=sglang),
        "ports": [{"name": "http", "containerPort": PORT}],
    }
    documents.append(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": f"{app}-router", "labels": labels},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
            },
        }
    )
    documents.append(_service(f"{app}-router", labels))
    return documents


def _engine_service(pool: EnginePool, devices: list[str], *, sglang: bool) -> dict[str, Any]:
    service: dict[str, Any] = {
        "image": IMAGES[sglang],
        "entrypoint": _command(pool, sglang=sglang),
        "environment": {"HF_HOME": _CACHE, "HF_TOKEN": "${HF_TOKEN:-}"},
        "volumes": [f"models:{_CACHE}"],
        "shm_size": _SHM,
        "restart": "unless-stopped",
        "healthcheck": {
            "test": ["CMD", "curl", "-f", f"http://localhost:{PORT}/health"],
            "interval": "10s",
            "timeout": "5s",
            "retries": 180,
        },
    }
    if pool.resource == "nvidia.com/gpu":
        reserved = {"driver": "nvidia", "device_ids": devices, "capabilities": ["gpu"]}
        service["deploy"] = {"resources": {"reservations": {"devices": [reserved]}}}
    elif pool.resource == "amd.com/gpu":
        service["devices"] = ["/dev/kfd:/dev/kfd", "/dev/dri:/dev/dri"]
        service["environment"]["HIP_VISIBLE_DEVICES"] = ",".join(devices)
    else:
        service["privileged"] = True
    return service


def _pool_documents(app: str, pool: EnginePool, *, sglang: bool) -> Iterator[dict[str, Any]]:
    name = f"{app}-{pool.host}"
    labels = {"app.kubernetes.io/name": app, "app.kubernetes.io/component": pool.host}
    probe = {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 10}
    container = {
        "name": "engine",
        "image": IMAGES[sglang],
        "command": _command(pool, sglang=sglang),
        "env": [
            {"name": "HF_HOME", "value": _CACHE},
            {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf-token", "key": "token", "optional": True}}},
        ],
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": {"limits": {pool.resource: pool.devices}},
        "startupProbe": {**probe, "failureThreshold": 180},
        "readinessProbe": probe,
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}, {"name": "models", "mountPath": _CACHE}],  # noqa: S108
    }
    yield {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "serviceName": name,
            "replicas": pool.clients,
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "nodeSelector": {"hermes/device": pool.device},
                    "containers": [container],
                    "volumes": [
                        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}},
                        {"name": "models", "emptyDir": {}},
                    ],
                },
            },
        },
    }
    yield _service(name, labels, headless=True)


def _service(name: str, labels: dict[str, str], *, headless: bool = False) -> dict[str, Any]:
    spec: dict[str, Any] = {"selector": labels, "ports": [{"name": "http", "port": PORT, "targetPort": "http"}]}
    if headless:
        spec = {"clusterIP": "None", "publishNotReadyAddresses": True, **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": labels}, "spec": spec}


def _command(pool: EnginePool, *, sglang: bool) -> list[str]:
    return sglang_command(pool) if sglang else vllm_command(pool)


def _router(pools: tuple[EnginePool, ...], urls: dict[str, list[str]], *, sglang: bool) -> list[str]:
    words = router_command(pools, urls, sglang=sglang)
    # vLLM's image has no router in it.
    return (
        words if sglang else ["sh", "-c", f"pip install --quiet 'vllm-router>=0.1.16,<0.2' && exec {' '.join(words)}"]
    )


def _dns(name: str) -> str:
    text = "".join(c if c.isalnum() and c.isascii() else "-" for c in name.lower()).strip("-")
    return text[:40].rstrip("-") or "hermes"
