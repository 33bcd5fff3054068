"""compose.yaml: published ports, passwords, volumes and dependencies."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "compose.yaml").read_text()
SERVICES = yaml.safe_load(TEXT)["services"]


def test_ports_are_published_on_loopback_only():
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:${MLFLOW_PORT:-5000}:5000"]
    for service in SERVICES.values():
        assert service.keys().isdisjoint({"network_mode", "privileged", "cap_add", "pid"})


def test_password_has_no_default():
    used = re.findall(r"\$\{(POSTGRES_PASSWORD|BOX_USER)(:?.)", TEXT)
    assert [name for name, _ in used] == ["POSTGRES_PASSWORD", "POSTGRES_PASSWORD", "BOX_USER"]
    assert {mark for _, mark in used} == {":?"}  # refused without it
    settings = [service["environment"] for service in SERVICES.values()]
    secret = [value for each in settings for name, value in each.items() if "PASS" in name]
    assert all(value.startswith("${POSTGRES_PASSWORD:?") for value in secret)
    assert not any("PASS" in word for word in SERVICES["mlflow"]["command"])


def test_image_is_built_by_the_dockerfile_and_never_pulled():
    (tag,) = re.findall(r"^# docker build -t (\S+) ", (ROOT / "Dockerfile").read_text())
    for name in ("mlflow", "pipeline"):
        assert SERVICES[name]["image"] == f"{tag}:latest"
        assert SERVICES[name]["pull_policy"] == "never"


def test_services_wait_for_healthy_dependencies():
    assert SERVICES["mlflow"]["depends_on"] == {"database": {"condition": "service_healthy"}}
    assert SERVICES["pipeline"]["depends_on"] == {"mlflow": {"condition": "service_healthy"}}
    assert {name for name in SERVICES if "healthcheck" in SERVICES[name]} == {"database", "mlflow"}


def test_server_accepts_the_host_name_that_the_pipeline_uses():
    (hosts,) = [word for word in SERVICES["mlflow"]["command"] if "--allowed-hosts=" in word]
    name = SERVICES["pipeline"]["environment"]["MLFLOW_TRACKING_URI"]
    assert name == "http://mlflow:5000"
    assert "mlflow:*" in hosts
    assert hosts.count("*") == hosts.count(":*")  # no wildcard but a port


@pytest.mark.parametrize(("service", "kept"), [("database", "postgresql"), ("mlflow", "cwm")])
def test_persistent_data_is_in_volumes(service, kept):
    (volume,) = SERVICES[service]["volumes"]
    name, _, place = volume.partition(":")
    assert name in yaml.safe_load(TEXT)["volumes"]
    assert kept in place


def test_artifacts_are_in_a_folder_of_the_image_user():
    assert "useradd --uid 10001 --create-home cwm" in (ROOT / "Dockerfile").read_text()
    assert "--artifacts-destination=/home/cwm/artifacts" in SERVICES["mlflow"]["command"]
    assert SERVICES["mlflow"]["volumes"] == ["artifacts:/home/cwm"]
