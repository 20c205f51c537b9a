"""Launch templates and what AWS itself provides, where moto differs: user data of later versions, tags of the template, public AMIs and policies.

moto builds thousands of AMIs and policies for each region, seconds at each reset; here they come when somebody asks for one of them.
"""

import functools
import json
from datetime import UTC, datetime
from typing import Any

from moto.ec2.models.amis import AMIS, Ami, AmiBackend
from moto.ec2.models.launch_templates import LaunchTemplate
from moto.ec2.utils import parse_user_data
from moto.iam.aws_managed_policies import aws_managed_policies_data
from moto.iam.models import AWSManagedPolicy, IAMBackend
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
POLICIES = ("AmazonSSMManagedInstanceCore", "CloudWatchAgentServerPolicy", "AmazonEC2ContainerRegistryReadOnly")
"""AWS's own policies that a stack might attach; others do not exist here."""
_load_amis = AmiBackend._load_amis  # noqa: SLF001 - replaced below
_describe_images = AmiBackend.describe_images
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


def _amis(self: Any) -> None:
    """The one that everybody uses."""
    self.amis.update({one["ami_id"]: Ami(self, **{**one, "owner_alias": "amazon"}) for one in AMIS if one["ami_id"] == IMAGE})


def _images(self: Any, ami_ids: Any = None, filters: Any = None, **options: Any) -> Any:
    named = [*(ami_ids or []), *((filters or {}).get("image-id") or [])]
    if not getattr(self, "all_amis", False) and (not named or not set(named) <= set(self.amis)):
        self.all_amis = True
        kept = dict(self.amis)
        _load_amis(self)
        self.amis.update(kept)
    return _describe_images(self, ami_ids, filters, **options)


@functools.cache
def _known_policies() -> dict[str, Any]:
    known = json.loads(aws_managed_policies_data)
    return {name: known[name] for name in POLICIES}


def _policies(self: Any) -> list[Any]:
    return [AWSManagedPolicy.from_data(name, self.account_id, self.region_name, data) for name, data in _known_policies().items()]


def install() -> None:
    """Put these in the place of moto's."""
    replace(LaunchTemplate, create_version=_version)
    replace(SimpleSystemManagerBackend, __init__=_ssm)
    replace(AmiBackend, _load_amis=_amis, describe_images=_images)
    replace(IAMBackend, _init_aws_policies=_policies)
