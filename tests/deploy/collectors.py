"""OpenTelemetry Collectors of the core, which tests/peers builds, and what an example's config of one must have."""

import json
import os
import subprocess
import time

from kubernetes import ROOT, Invalid

COLLECTOR = ROOT / "target/peers/otelcol"
PATIENCE = 60


def check_collector(config):
    """Whatever a pipeline names is defined, and whatever is defined is named."""
    service = config["service"]
    for kind in ("receivers", "processors", "exporters"):
        named = {name for pipeline in service["pipelines"].values() for name in pipeline[kind]}
        if named != set(config[kind]):
            raise Invalid(f"{kind}: defined {sorted(config[kind])}, named {sorted(named)}")
    if set(service.get("extensions", [])) != set(config.get("extensions", [])):
        raise Invalid("extensions: not those that are defined")
    for pipeline in service["pipelines"].values():
        if pipeline["processors"][0] != "memory_limiter":
            raise Invalid("memory_limiter is not first")


def collector(folder, name, config, environment):
    """A Collector of the core, and its log. JSON is YAML."""
    (folder / f"{name}.yaml").write_text(json.dumps(config))
    log = (folder / f"{name}.log").open("w")
    return subprocess.Popen([COLLECTOR, f"--config={folder}/{name}.yaml"], stdout=log, stderr=log, env={**os.environ, **environment})


def eventually(what, ask):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            found = ask()
            if found:
                return found
        except OSError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"never: {what}")


def attributes_of(resource):
    """Attributes in OTLP's JSON, as a dictionary."""
    return {each["key"]: next(iter(each["value"].values())) for each in resource["attributes"]}
