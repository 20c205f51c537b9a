# What may talk to whom at the level of AWS: the mesh's UDP port from anywhere, and nothing else. What is allowed inside the mesh is Nebula's
# own firewall, which AWS cannot see.

resource "aws_security_group" "nodes" {
  name        = "${var.stack}-nodes"
  description = "GPU nodes: the mesh in, the web and the mesh out"
  vpc_id      = aws_vpc.this.id
  tags        = merge(local.tags, { Name = "${var.stack}-nodes" })

  # A renamed group is made before the old one goes: machines may still use that.
  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_security_group" "lighthouse" {
  count       = var.lighthouse == null ? 0 : 1
  name        = "${var.stack}-lighthouse"
  description = "Lighthouse: the mesh in, the web and the mesh out"
  vpc_id      = aws_vpc.this.id
  tags        = merge(local.tags, { Name = "${var.stack}-lighthouse" })

  lifecycle {
    create_before_destroy = true
  }
}

locals {
  machine_groups = merge({ nodes = aws_security_group.nodes.id }, { for group in aws_security_group.lighthouse : "lighthouse" => group.id })

  # The mesh's peers sit behind home routers that choose any UDP port, hence all of UDP. DNS and time are the VPC's own and pass unfiltered.
  ways_out = {
    https = { protocol = "tcp", from = 443, to = 443, why = "AWS, container registries and model hubs" }
    http  = { protocol = "tcp", from = 80, to = 80, why = "Package mirrors of the distribution" }
    mesh  = { protocol = "udp", from = 1, to = 65535, why = "Peers of the mesh, whose routers choose the port" }
  }
  egress = merge([for group in keys(local.machine_groups) : { for way in keys(local.ways_out) : "${group}-${way}" => { group = group, way = way } }]...)
}

# The one door. Anyone may knock: Nebula drops what is not signed by our authorities.
resource "aws_vpc_security_group_ingress_rule" "mesh" {
  for_each          = local.machine_groups
  security_group_id = each.value
  description       = "The mesh, from anywhere"
  ip_protocol       = "udp"
  from_port         = var.mesh_port
  to_port           = var.mesh_port
  cidr_ipv4         = "0.0.0.0/0"
  tags              = local.tags
}

resource "aws_vpc_security_group_egress_rule" "out" {
  for_each          = local.egress
  security_group_id = local.machine_groups[each.value.group]
  description       = local.ways_out[each.value.way].why
  ip_protocol       = local.ways_out[each.value.way].protocol
  from_port         = local.ways_out[each.value.way].from
  to_port           = local.ways_out[each.value.way].to
  cidr_ipv4         = "0.0.0.0/0"
  tags              = local.tags
}
