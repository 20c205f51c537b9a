"""Images made of a machine's disk, with what moto leaves out: tags of their snapshots, and that these disks are encrypted as the machine's were."""

from typing import Any

from moto.ec2.models.amis import Ami, AmiBackend

from lamplighter.testing.aws.replacing import replace

_create = AmiBackend.create_image


def _create_image(
    self: AmiBackend, instance_id: str, name: str, description: str, tag_specifications: list[dict[str, Any]]
) -> Ami:
    of_snapshots = [one for one in tag_specifications if one["ResourceType"] == "snapshot"]
    image: Ami = _create(self, instance_id, name, description, [one for one in tag_specifications if one not in of_snapshots])
    for specification in of_snapshots:
        for tag in specification["Tags"]:
            image.ebs_snapshot.add_tag(tag["Key"], tag["Value"])
    return image


def install() -> None:
    """Put it in the place of moto's."""
    replace(AmiBackend, create_image=_create_image)
