"""Launch templates and public images where moto differs from EC2: user data of later versions, tags of the template itself, AMIs named by SSM."""

from datetime import UTC, datetime
from typing import Any

from moto.ec2.models.launch_templates import LaunchTemplate
from moto.ec2.utils import parse_user_data
from moto.ssm.models import Parameter, SimpleSystemManagerBackend

from lamplighter.testing.aws.replacing import replace

IMAGE = "ami-03cf127a"
"""An image that moto knows in every region; it stands for the Deep Learning AMI."""
_DEEP_LEARNING = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-{}/latest/ami-id"
PUBLIC = (
    *(_DEEP_LEARNING.format(system) for system in ("ubuntu-22.04", "ubuntu-24.04", "amazon-linux-2023")),
    "/aws/service/canonical/ubuntu/server/24.04/stable/current/arm64/hvm/ebs-gp3/ami-id",
    "/aws/service/debian/release/12/latest/arm64",
)
_create_version = LaunchTemplate.create_version
_begin = SimpleSystemManagerBackend.__init__


def _version(self: Any, data: dict[str, Any], description: str) -> Any:
    data = dict(data)
    if isinstance(data.get("UserData"), (str, bytes)):
        data["UserData"] = parse_user_data(data["UserData"])
    if data.get("TagSpecifications"):
        data["TagSpecifications"] = [one for one in data["TagSpecifications"] if one.get("ResourceType") != "launch-template"]
    return _create_version(self, data, description)


def _ssm(self: Any, region_name: str, account_id: str) -> None:
    _begin(self, region_name, account_id)
    for name in PUBLIC:
        publish(self, name, IMAGE)


def publish(backend: Any, name: str, value: str) -> None:
    """A public parameter, which nobody could put by the API."""
    parameter: Any = Parameter(  # type: ignore[abstract]
        backend.account_id, name, value, "String", None, None, None, datetime.now(UTC), 1, "text"
    )
    dict.setdefault(backend._parameters, name, []).append(parameter)  # noqa: SLF001 - public parameters are read-only by the API


def install() -> None:
    """Put these in the place of moto's."""
    replace(LaunchTemplate, create_version=_version)
    replace(SimpleSystemManagerBackend, __init__=_ssm)
