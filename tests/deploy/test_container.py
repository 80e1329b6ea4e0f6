"""The image and what compose makes of it agree with the service's settings."""

import re

import pytest
import yaml

from app import __version__
from app.settings import Settings
from testing.serving import ROOT

_DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
_COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
_SERVICE = _COMPOSE["services"]["service"]
_GIVEN = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def _default(value: str) -> str:
    """A value of the compose file where nothing is set."""
    return _GIVEN.sub(lambda given: given[2] or "", value)


def _variables() -> set[str]:
    return {f"CAM_{name.upper()}" for name in Settings.model_fields}


def test_every_setting_can_be_made_without_editing_the_compose_file():
    passed = {name for name in _SERVICE["environment"] if name.startswith("CAM_")}
    (port,) = _SERVICE["ports"]
    published = {name for name, _ in _GIVEN.findall(port)}
    assert published == {"CAM_HOST", "CAM_PORT"}
    assert passed | published == _variables()


def test_a_setting_that_is_not_made_keeps_the_default_of_the_service():
    assert {name: value for name, value in _SERVICE["environment"].items() if value is not None} == {
        "CAM_WEIGHTS_DIR": "${CAM_WEIGHTS_DIR:-/weights}"
    }


def test_every_setting_of_the_image_is_one_of_the_service():
    assert set(re.findall(r"\bCAM_\w+(?==)", _DOCKERFILE)) <= _variables()


def test_it_is_published_to_this_machine_only_and_where_the_image_listens():
    (port,) = _SERVICE["ports"]
    inside = re.search(r"CAM_PORT=(\d+)", _DOCKERFILE)[1]
    assert _default(port) == f"127.0.0.1:8000:{inside}"
    assert f"EXPOSE {inside}\n" in _DOCKERFILE


def test_a_container_is_given_longer_to_stop_than_the_service_takes():
    grace_s = float(_default(_SERVICE["stop_grace_period"]).removesuffix("s"))
    assert grace_s >= Settings().drain_s + 5


@pytest.mark.parametrize("name", _COMPOSE["services"])
def test_every_container_is_denied_what_it_does_not_need(name: str):
    service = _COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["init"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert service["deploy"]["resources"]["limits"].keys() >= {"memory", "pids"}
    assert all(port.startswith(("127.0.0.1:", "${CAM_HOST:-127.0.0.1}:")) for port in service["ports"])


def test_images_of_others_are_pinned():
    for service in _COMPOSE["services"].values():
        if "build" not in service:
            assert re.fullmatch(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+", service["image"])


def test_every_mounted_file_is_there():
    for service in _COMPOSE["services"].values():
        for volume in service["volumes"]:
            source = re.split(r":(?=/)", volume)[0]
            if (path := _default(source)).startswith("./"):
                assert (ROOT / path).exists(), path
            else:
                assert path in _COMPOSE["volumes"]


def test_what_the_hubs_send_is_kept_in_the_volume():
    environment = dict(re.findall(r"\b([A-Z_]+)=(/[\w/]+)", _DOCKERFILE))
    assert environment["HF_HOME"].startswith("/weights/")
    assert environment["TORCH_HOME"].startswith("/weights/")
    assert "weights:/weights" in _SERVICE["volumes"]


def test_the_service_runs_as_an_ordinary_user_that_is_named_by_number():
    users = re.findall(r"^USER (\S+)", _DOCKERFILE, re.MULTILINE)
    assert users == ["10001:10001"]


def test_the_image_says_which_version_it_holds():
    assert f"ARG VERSION={__version__}\n" in _DOCKERFILE


def test_the_override_for_gpus_reserves_them_for_the_service():
    override = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text(encoding="utf-8"))
    (device,) = override["services"]["service"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert device["capabilities"] == ["gpu"]
