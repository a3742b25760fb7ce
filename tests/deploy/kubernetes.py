"""Checks of Kubernetes objects that more than one test makes."""

import subprocess
import sys
import tempfile
from pathlib import Path

import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/flowtap"
# The oldest that Chart.yaml admits, the one whose API flowtap is built for, and the newest that there are schemas of.
VERSIONS = ("1.25", "1.33", kubernetes_validate.latest_version())

# Kinds of the Prometheus Operator are in no schema of Kubernetes: the fields that its API has of those that one may write.
ENDPOINT = {"port", "path", "scheme", "interval", "scrapeTimeout", "relabelings", "metricRelabelings", "honorLabels", "basicAuth", "tlsConfig"}
RELABELING = {"action", "sourceLabels", "targetLabel", "regex", "replacement", "separator", "modulus"}
SPEC = {"selector", "namespaceSelector", "jobLabel", "podTargetLabels"}
MONITORS = {"ServiceMonitor": "endpoints", "PodMonitor": "podMetricsEndpoints"}


class Invalid(Exception):
    """An object is not what the API takes."""


def only(found, known, where):
    """Refuses keys that are not known."""
    unknown = sorted(set(found) - known)
    if unknown:
        raise Invalid(f"{where}: unknown {', '.join(unknown)}")


def check_monitor(monitor):
    """A ServiceMonitor or PodMonitor, by shape."""
    if monitor["apiVersion"] != "monitoring.coreos.com/v1":
        raise Invalid(f"{monitor['kind']}: apiVersion {monitor['apiVersion']}")
    endpoints = MONITORS[monitor["kind"]]
    only(monitor["spec"], SPEC | {endpoints}, monitor["kind"])
    if not monitor["spec"][endpoints] or not monitor["spec"]["selector"]["matchLabels"]:
        raise Invalid(f"{monitor['kind']}: no endpoint, or nothing selected")
    for endpoint in monitor["spec"][endpoints]:
        only(endpoint, ENDPOINT, endpoints)
        for part, selector in endpoint.get("basicAuth", {}).items():
            only({part}, {"username", "password"}, "basicAuth")
            only(selector, {"name", "key"}, f"basicAuth.{part}")
        for rule in endpoint.get("relabelings", []) + endpoint.get("metricRelabelings", []):
            only(rule, RELABELING, "relabeling")
            if not isinstance(rule.get("sourceLabels", []), list):
                raise Invalid("sourceLabels: not a list")


def check_rule(rule):
    """A PrometheusRule: promtool reads its groups as a file of rules."""
    if rule["apiVersion"] != "monitoring.coreos.com/v1":
        raise Invalid(f"PrometheusRule: apiVersion {rule['apiVersion']}")
    only(rule["spec"], {"groups"}, "PrometheusRule")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(rule["spec"], file)
        file.flush()
        done = subprocess.run(["promtool", "check", "rules", "--lint=all", "--lint-fatal", file.name], capture_output=True, text=True)
    if done.returncode:
        raise Invalid(f"PrometheusRule: {done.stderr}{done.stdout}")


def check_object(item):
    """Any object, against the schemas of every version in VERSIONS; those of the Prometheus Operator by their shape."""
    if item["kind"] == "PrometheusRule":
        check_rule(item)
        return
    if item["kind"] in MONITORS:
        check_monitor(item)
        return
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(item, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            path = ".".join(str(step) for step in error.path)
            raise Invalid(f"{item['kind']} {item['metadata']['name']}, Kubernetes {version}: {path}: {error.message}") from error
        except kubernetes_validate.SchemaNotFoundError as error:
            raise Invalid(error.message) from error


def check_references(objects):
    """References between objects: names, ports, labels, subjects."""
    by_kind = {}
    for item in objects:
        by_kind.setdefault(item["kind"], {})[item["metadata"]["name"]] = item
    for workload in [*by_kind.get("DaemonSet", {}).values(), *by_kind.get("Deployment", {}).values()]:
        pod = workload["spec"]["template"]
        labels = pod["metadata"]["labels"].items()
        containers = pod["spec"].get("initContainers", []) + pod["spec"]["containers"]
        ports = {port["name"] for container in containers for port in container.get("ports", [])}
        selectors = [workload["spec"]["selector"]["matchLabels"]]
        for service in by_kind.get("Service", {}).values():
            selectors.append(service["spec"]["selector"])
            missing = {port["targetPort"] for port in service["spec"]["ports"]} - ports
            if missing:
                raise Invalid(f"the service wants ports that no container has: {missing}")
        for kind, key in MONITORS.items():
            for monitor in by_kind.get(kind, {}).values():
                selectors.append(monitor["spec"]["selector"]["matchLabels"])
                missing = {endpoint["port"] for endpoint in monitor["spec"][key]} - ports
                if missing:
                    raise Invalid(f"{kind} wants ports that no container has: {missing}")
        for selector in selectors:
            if not selector.items() <= labels:
                raise Invalid(f"{selector} does not select the pods, {dict(labels)}")
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
        for container in containers:
            for mount in container.get("volumeMounts", []):
                if mount["name"] not in volumes:
                    raise Invalid(f"no volume {mount['name']}")
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                port = container.get(probe, {}).get("httpGet", {}).get("port")
                if isinstance(port, str) and port not in ports:
                    raise Invalid(f"{probe}: no port {port}")
    for binding in [*by_kind.get("ClusterRoleBinding", {}).values(), *by_kind.get("RoleBinding", {}).values()]:
        role = binding["roleRef"]
        if role["name"] not in by_kind.get(role["kind"], {}):
            raise Invalid(f"{binding['kind']} binds {role['name']}, which is not there")


def objects_of(text):
    """The objects of YAML documents."""
    return [item for item in yaml.safe_load_all(text) if item]


def check_all(objects):
    """All of the above."""
    if not objects:
        raise Invalid("no objects")
    for item in objects:
        check_object(item)
    check_references(objects)


def skip(why):
    """Ends the test as skipped."""
    print(f"skipped: {why}")
    sys.exit(77)
