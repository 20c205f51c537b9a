# What everything else refers to: where we are, how things are called and tagged, and which groups there are.

data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}
data "aws_region" "current" {}

data "aws_availability_zones" "region" {
  #checkov:skip=CKV_AWS_394:A zone that AWS adds only adds a subnet, which costs nothing; the numbers of the others stay (network.tf).
  state = "available"

  filter {
    name   = "opt-in-status"
    values = ["opt-in-not-required"]
  }
}

# GPU types are not offered in every zone. A group in a zone without its types only produces failed launches.
data "aws_ec2_instance_type_offerings" "pool" {
  for_each      = var.pools
  location_type = "availability-zone"

  filter {
    name   = "instance-type"
    values = each.value.instance_types
  }
}

locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition

  # The keeper and the node's own permissions go by these tags: what lacks them is not ours.
  tags = merge(var.tags, {
    "lamplighter:installation" = var.installation
    "lamplighter:stack"        = var.stack
  })

  zones = sort(data.aws_availability_zones.region.names)

  # Which zones a pool may use. A volume lives in one zone and so do the nodes that use it.
  offered = { for name, pool in var.pools : name => [
    for zone in local.zones : zone
    if contains(data.aws_ec2_instance_type_offerings.pool[name].locations, zone) && (length(pool.zones) == 0 || contains(pool.zones, zone))
  ] }
  pool_zones = { for name, pool in var.pools : name =>
    pool.model_storage.kind == "volume" ? slice(local.offered[name], 0, min(1, length(local.offered[name]))) : local.offered[name]
  }

  # Two groups for each pool. A mixed-instances group never falls back from spot to on-demand by itself; a second group does.
  groups = merge([for name, pool in var.pools : {
    for market in ["spot", "on-demand"] : "${name}-${market}" => { pool = name, market = market, name = "${var.stack}-${name}-${market}" }
  }]...)
  group_names = [for group in local.groups : group.name]

  storage_kinds = toset([for pool in var.pools : pool.model_storage.kind])
}
