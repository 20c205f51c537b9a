# The network: one VPC, a public subnet in each zone, and where asked private ones behind one NAT gateway. Subnets cost nothing, so that every
# zone has one: a pool may move to another zone without a change here.

locals {
  # A zone's letter fixes its subnet: a new zone in the region never renumbers the others. Eight public, eight private.
  zone_numbers  = { for zone in local.zones : zone => index(["a", "b", "c", "d", "e", "f", "g", "h"], substr(zone, -1, 1)) }
  private_zones = var.private_subnet ? local.zone_numbers : {}
}

resource "aws_vpc" "this" {
  #checkov:skip=CKV2_AWS_11:Flow logs are billed by the GB, and nothing listens here but the mesh, which authenticates every packet.
  cidr_block           = var.vpc_cidr
  enable_dns_support   = true
  enable_dns_hostnames = true
  tags                 = merge(local.tags, { Name = var.stack })
}

# The group that AWS makes by itself: emptied, so that nothing that forgets to name a group can talk.
resource "aws_default_security_group" "this" {
  vpc_id = aws_vpc.this.id
  tags   = merge(local.tags, { Name = "${var.stack}-unused" })
}

resource "aws_internet_gateway" "this" {
  vpc_id = aws_vpc.this.id
  tags   = merge(local.tags, { Name = var.stack })
}

resource "aws_subnet" "public" {
  for_each          = local.zone_numbers
  vpc_id            = aws_vpc.this.id
  availability_zone = each.key
  cidr_block        = cidrsubnet(var.vpc_cidr, 4, each.value)
  # Who needs a public address asks for it: the launch templates and the lighthouse.
  map_public_ip_on_launch = false
  tags                    = merge(local.tags, { Name = "${var.stack}-public-${each.key}" })
}

resource "aws_route_table" "public" {
  vpc_id = aws_vpc.this.id
  tags   = merge(local.tags, { Name = "${var.stack}-public" })
}

resource "aws_route" "internet" {
  route_table_id         = aws_route_table.public.id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.this.id
}

resource "aws_route_table_association" "public" {
  for_each       = aws_subnet.public
  subnet_id      = each.value.id
  route_table_id = aws_route_table.public.id
}

resource "aws_subnet" "private" {
  for_each                = local.private_zones
  vpc_id                  = aws_vpc.this.id
  availability_zone       = each.key
  cidr_block              = cidrsubnet(var.vpc_cidr, 4, 8 + each.value)
  map_public_ip_on_launch = false
  tags                    = merge(local.tags, { Name = "${var.stack}-private-${each.key}" })
}

resource "aws_eip" "nat" {
  count  = var.private_subnet ? 1 : 0
  domain = "vpc"
  tags   = merge(local.tags, { Name = "${var.stack}-nat" })
}

# One for all zones: a second one costs as much again, and nodes that lose it are ended by their lease like any that home cannot reach.
resource "aws_nat_gateway" "this" {
  count         = var.private_subnet ? 1 : 0
  allocation_id = aws_eip.nat[0].id
  subnet_id     = aws_subnet.public[local.zones[0]].id
  tags          = merge(local.tags, { Name = var.stack })
  depends_on    = [aws_internet_gateway.this]
}

resource "aws_route_table" "private" {
  count  = var.private_subnet ? 1 : 0
  vpc_id = aws_vpc.this.id
  tags   = merge(local.tags, { Name = "${var.stack}-private" })
}

resource "aws_route" "nat" {
  count                  = var.private_subnet ? 1 : 0
  route_table_id         = aws_route_table.private[0].id
  destination_cidr_block = "0.0.0.0/0"
  nat_gateway_id         = aws_nat_gateway.this[0].id
}

resource "aws_route_table_association" "private" {
  for_each       = aws_subnet.private
  subnet_id      = each.value.id
  route_table_id = aws_route_table.private[0].id
}
