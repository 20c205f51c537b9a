# Ways to AWS's own services that do not leave its network. S3's costs nothing and is always there: models and registry layers pass through it.
# The others cost money by the hour and zone: one zone's serves all.

resource "aws_vpc_endpoint" "s3" {
  vpc_id            = aws_vpc.this.id
  service_name      = "com.amazonaws.${var.region}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = concat([aws_route_table.public.id], aws_route_table.private[*].id)
  tags              = merge(local.tags, { Name = "${var.stack}-s3" })
}

locals {
  endpoints = var.vpc_endpoints ? toset(concat(
    ["autoscaling", "ec2", "secretsmanager", "sqs"],
    var.registry ? ["ecr.api", "ecr.dkr"] : [],
    var.session_manager ? ["ssm", "ssmmessages"] : [],
  )) : toset([])
}

resource "aws_security_group" "endpoints" {
  count       = var.vpc_endpoints ? 1 : 0
  name        = "${var.stack}-endpoints"
  description = "Endpoints of AWS services: the nodes in"
  vpc_id      = aws_vpc.this.id
  tags        = merge(local.tags, { Name = "${var.stack}-endpoints" })
}

resource "aws_vpc_security_group_ingress_rule" "endpoints" {
  count             = var.vpc_endpoints ? 1 : 0
  security_group_id = aws_security_group.endpoints[0].id
  description       = "AWS services, from the stack's own network"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = aws_vpc.this.cidr_block
  tags              = local.tags
}

resource "aws_vpc_endpoint" "services" {
  for_each            = local.endpoints
  vpc_id              = aws_vpc.this.id
  service_name        = "com.amazonaws.${var.region}.${each.key}"
  vpc_endpoint_type   = "Interface"
  private_dns_enabled = true
  subnet_ids          = [var.private_subnet ? aws_subnet.private[local.zones[0]].id : aws_subnet.public[local.zones[0]].id]
  security_group_ids  = [aws_security_group.endpoints[0].id]
  tags                = merge(local.tags, { Name = "${var.stack}-${each.key}" })
}
