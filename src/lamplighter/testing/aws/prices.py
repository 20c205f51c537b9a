"""Plausible prices, placement scores and quotas of the pretended AWS. The prices are made up near what AWS asks; no test may take them for facts."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.models.spot_requests import SpotRequestBackend
from moto.ec2.responses import EC2Response
from moto.ec2.responses.spot_instances import SpotInstances
from moto.servicequotas.exceptions import NoSuchResource
from moto.servicequotas.models import ServiceQuotasBackend
from moto.servicequotas.responses import ServiceQuotasResponse

from lamplighter.testing.aws.capacity import SPOT
from lamplighter.testing.aws.replacing import replace
from lamplighter.testing.aws.world import current

ON_DEMAND_PRICES = {
    "g4dn.xlarge": 0.658, "g4dn.2xlarge": 0.94, "g5.xlarge": 1.258, "g5.2xlarge": 1.515, "g6.xlarge": 1.006, "g6.2xlarge": 1.222,
    "t4g.nano": 0.0048, "t3.micro": 0.012,
}  # fmt: skip
"""USD an hour."""
QUOTAS = {
    "L-3819A6DF": ("All G and VT Spot Instance Requests", 8.0),
    "L-DB2E81BA": ("Running On-Demand G and VT instances", 8.0),
    "L-34B43A08": ("All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests", 32.0),
    "L-1216C47A": ("Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances", 32.0),
}
"""vCPUs of a new account that asked for GPUs once."""
_DISCOUNTS = {"a": 0.62, "b": 0.45, "c": 0.55}
_NEWEST_AGE = timedelta(minutes=17)


def spot_price(instance_type: str, zone: str) -> float:
    """USD an hour of a spot machine."""
    return round(ON_DEMAND_PRICES.get(instance_type, 1.0) * (1 - _DISCOUNTS.get(zone[-1:], 0.5)), 4)


def price_list(filters: Mapping[str, str]) -> list[str]:
    """Products of the price list: on-demand machines, as JSON texts."""
    kind = filters.get("instanceType", "")
    if kind not in ON_DEMAND_PRICES:
        return []
    dimension = {
        "unit": "Hrs",
        "pricePerUnit": {"USD": f"{ON_DEMAND_PRICES[kind]:.10f}"},
        "description": f"On Demand Linux {kind}",
    }
    product = {
        "productFamily": "Compute Instance",
        "attributes": {"instanceType": kind, "regionCode": filters.get("regionCode", "")},
    }
    terms = {"OnDemand": {"SKU.TERM": {"priceDimensions": {"SKU.TERM.RATE": dimension}}}}
    return [json.dumps({"product": product, "serviceCode": "AmazonEC2", "terms": terms})]


def _history(self: SpotInstances) -> ActionResult:
    """DescribeSpotPriceHistory: four changes in a day for each type and zone, newest first."""
    filters = self._filters_from_querystring()
    types: Any = self._get_param("InstanceTypes", []) or filters.pop("instance-type", [])
    zone = self._get_param("AvailabilityZone")
    found: list[dict[str, Any]] = SpotRequestBackend.describe_spot_price_history(
        self.ec2_backend, types, {name: value for name, value in filters.items() if name == "availability-zone"}
    )
    end = current().moment()
    start = _moment(self._get_param("StartTime")) or end - timedelta(days=90)
    history = []
    for offering in found:
        if zone is not None and offering["Location"] != zone:
            continue
        newest = spot_price(offering["InstanceType"], offering["Location"])
        steps = [(end - _NEWEST_AGE - timedelta(hours=6 * step), newest * (1 + 0.01 * step)) for step in range(4)]
        # A start time gets also the price that was valid then.
        shown = [one for one in steps if one[0] >= start] or steps[:1]
        history += [
            {
                "InstanceType": offering["InstanceType"], "ProductDescription": "Linux/UNIX", "SpotPrice": f"{price:.6f}",
                "AvailabilityZone": offering["Location"], "Timestamp": when,
            }
            for when, price in shown
        ]  # fmt: skip
    history.sort(key=lambda one: one["Timestamp"], reverse=True)
    return ActionResult({"SpotPriceHistory": history[:1000], "NextToken": ""})


def _moment(value: object) -> datetime | None:
    if value is None or isinstance(value, datetime):
        return value if value is None or value.tzinfo else value.replace(tzinfo=UTC)
    return datetime.fromisoformat(str(value).replace("Z", "+00:00"))


def _scores(self: EC2Response) -> ActionResult:
    """GetSpotPlacementScores: 9 where there is capacity, 1 where there is none."""
    types: Any = self._get_param("InstanceTypes", []) or ["g4dn.xlarge"]
    regions = self._get_param("RegionNames", []) or [self.region]
    capacity = current().capacity
    scores = []
    for region in regions:
        zones = {zone.name: zone.zone_id for zone in self.ec2_backend.describe_availability_zones() if zone.region_name == region}
        by_zone = {
            zone_id: 9 if any(capacity.refusal(SPOT, kind, zone, 0) is None for kind in types) else 1
            for zone, zone_id in zones.items()
        }
        if self._get_bool_param("SingleAvailabilityZone", False):
            scores += [{"Region": region, "AvailabilityZoneId": zone, "Score": score} for zone, score in by_zone.items()]
        else:
            scores.append({"Region": region, "Score": max(by_zone.values(), default=1)})
    return ActionResult({"SpotPlacementScores": sorted(scores, key=lambda one: -int(str(one["Score"])))})


def _quota(code: str, region: str) -> dict[str, Any]:
    name, value = QUOTAS[code]
    return {
        "ServiceCode": "ec2", "ServiceName": "Amazon Elastic Compute Cloud (Amazon EC2)", "QuotaCode": code, "QuotaName": name,
        "QuotaArn": f"arn:aws:servicequotas:{region}:123456789012:ec2/{code}",
        "Value": current().quotas.get(code, value), "Unit": "None", "Adjustable": True, "GlobalQuota": False,
    }  # fmt: skip


_get_quota = ServiceQuotasBackend.get_service_quota


def _get(self: ServiceQuotasBackend, service_code: str, quota_code: str) -> dict[str, Any]:
    if service_code != "ec2":
        return dict(_get_quota(self, service_code, quota_code))
    if quota_code not in QUOTAS:
        raise NoSuchResource
    return _quota(quota_code, self.region_name)


_list_quotas = ServiceQuotasBackend.list_aws_default_service_quotas


def _list(self: ServiceQuotasBackend, service_code: str) -> list[dict[str, Any]]:
    if service_code != "ec2":
        return list(_list_quotas(self, service_code))
    return [_quota(code, self.region_name) for code in QUOTAS]


def _list_applied(self: ServiceQuotasResponse) -> str:
    code = str(json.loads(self.body).get("ServiceCode"))
    return json.dumps({"Quotas": self.backend.list_aws_default_service_quotas(code)})


def install() -> None:
    """Put these in the place of moto's."""
    replace(ServiceQuotasResponse, list_service_quotas=_list_applied)
    replace(SpotInstances, describe_spot_price_history=_history)
    replace(EC2Response, get_spot_placement_scores=_scores)
    replace(ServiceQuotasBackend, get_service_quota=_get, list_aws_default_service_quotas=_list)
