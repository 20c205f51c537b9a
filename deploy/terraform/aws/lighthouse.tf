# A lighthouse in AWS, for homes without a fixed address of their own: the smallest machine and an address that stays when it is replaced.

data "aws_ec2_instance_type" "lighthouse" {
  count         = var.lighthouse == null ? 0 : 1
  instance_type = var.lighthouse.instance_type
}

data "aws_ssm_parameter" "lighthouse" {
  count = try(var.lighthouse.ami, "-") == "" ? 1 : 0
  name = format("/aws/service/ami-amazon-linux-latest/al2023-ami-minimal-kernel-default-%s",
  contains(data.aws_ec2_instance_type.lighthouse[0].supported_architectures, "arm64") ? "arm64" : "x86_64")
}

data "aws_ec2_instance_type_offerings" "lighthouse" {
  count         = var.lighthouse == null ? 0 : 1
  location_type = "availability-zone"

  filter {
    name   = "instance-type"
    values = [var.lighthouse.instance_type]
  }
}

locals {
  lighthouse_zone = try([for zone in local.zones : zone if contains(data.aws_ec2_instance_type_offerings.lighthouse[0].locations, zone)][0], local.zones[0])
}

resource "aws_iam_role" "lighthouse" {
  count              = var.lighthouse == null ? 0 : 1
  name               = "${var.stack}-${var.region}-lighthouse"
  description        = "Lighthouse of Lamplighter's mesh"
  assume_role_policy = local.machine_trust
  tags               = local.tags
}

resource "aws_iam_role_policy" "lighthouse" {
  count = var.lighthouse == null ? 0 : 1
  name  = "lighthouse"
  role  = aws_iam_role.lighthouse[0].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat([for statement in local.session_statements : statement if var.session_manager], [
      # Its settings, certificate, key and blocklist (SecureStrings that AWS's own key opens for it); nothing else is in its sight.
      {
        Sid      = "OwnSettings"
        Effect   = "Allow"
        Action   = ["ssm:GetParametersByPath"]
        Resource = [for end in ["", "/*"] : "${local.arn}:ssm:${local.here}:parameter/${var.stack}/lighthouse${end}"]
      },
    ])
  })
}

resource "aws_iam_instance_profile" "lighthouse" {
  count = var.lighthouse == null ? 0 : 1
  name  = aws_iam_role.lighthouse[0].name
  role  = aws_iam_role.lighthouse[0].name
  tags  = local.tags
}

resource "aws_instance" "lighthouse" {
  #checkov:skip=CKV_AWS_126:AWS's checks every five minutes are enough for a machine that only introduces others; every minute costs 2 USD a month.
  count                       = var.lighthouse == null ? 0 : 1
  ami                         = var.lighthouse.ami != "" ? var.lighthouse.ami : data.aws_ssm_parameter.lighthouse[0].insecure_value
  instance_type               = var.lighthouse.instance_type
  subnet_id                   = aws_subnet.public[local.lighthouse_zone].id
  vpc_security_group_ids      = [aws_security_group.lighthouse[0].id]
  iam_instance_profile        = aws_iam_instance_profile.lighthouse[0].name
  user_data                   = var.lighthouse.user_data
  user_data_replace_on_change = true
  ebs_optimized               = true
  tags                        = merge(local.tags, { Name = "${var.stack}-${var.lighthouse.name}" })
  volume_tags                 = merge(local.tags, { Name = "${var.stack}-${var.lighthouse.name}" })

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
    instance_metadata_tags      = "enabled"
  }

  root_block_device {
    volume_type = "gp3"
    volume_size = 8
    encrypted   = true
  }

  # It updates itself; a new image of AWS's is no reason to take the mesh's lighthouse away.
  lifecycle {
    ignore_changes = [ami]
  }

  # It fetches Nebula as soon as it starts.
  depends_on = [aws_route.internet, aws_route_table_association.public, aws_vpc_security_group_egress_rule.out]
}

resource "aws_eip" "lighthouse" {
  #checkov:skip=CKV2_AWS_19:It is attached by the association below, so that it outlives the machine.
  count  = var.lighthouse == null ? 0 : 1
  domain = "vpc"
  tags   = merge(local.tags, { Name = "${var.stack}-${var.lighthouse.name}" })
}

resource "aws_eip_association" "lighthouse" {
  count         = var.lighthouse == null ? 0 : 1
  allocation_id = aws_eip.lighthouse[0].id
  instance_id   = aws_instance.lighthouse[0].id
}
