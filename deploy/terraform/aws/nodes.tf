# GPU machines: for each pool a launch template and an Auto Scaling group on the spot market, and the same on demand. They begin at zero and
# only the keeper, the end of a node and the dead-man change that.

# The public parameter names the newest Deep Learning AMI with NVIDIA's driver and container toolkit.
data "aws_ssm_parameter" "stock" {
  count = contains(values(local.images), "stock") ? 1 : 0
  name  = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id"
}

data "aws_ssm_parameter" "baked" {
  for_each = toset([for name, pool in var.pools : name if local.images[name] == "baked" && pool.ami == ""])
  name     = "/${var.stack}/ami/${each.key}"
}

data "aws_ami" "pool" {
  for_each = local.amis

  filter {
    name   = "image-id"
    values = [each.value]
  }
}

locals {
  images = { for name, pool in var.pools : name => pool.image != "" ? pool.image : pool.ami != "" ? pool.ami : "stock" }
  amis = { for name, pool in var.pools : name =>
    pool.ami != "" ? pool.ami :
    local.images[name] == "stock" ? data.aws_ssm_parameter.stock[0].insecure_value :
    local.images[name] == "baked" ? data.aws_ssm_parameter.baked[name].insecure_value :
    local.images[name]
  }
  # What the image itself needs on its disk; zero where AWS does not say.
  image_gb = { for name, image in data.aws_ami.pool : name => max(0, [
    for device in image.block_device_mappings : try(tonumber(device.ebs["volume_size"]), 0) if device.device_name == image.root_device_name
  ]...) }

  # What a node knows of itself from the start. Nothing here is secret: anybody on the machine can read it.
  node_json = { for name, pool in var.pools : name => jsonencode({
    version         = 1
    stack           = var.stack
    installation    = var.installation
    pool            = name
    region          = var.region
    account         = local.account
    nodes_queue_url = aws_sqs_queue.this["nodes"].url
    bucket          = aws_s3_bucket.this.bucket
    node_role_id    = aws_iam_role.nodes.unique_id
    boot_deadline   = pool.boot_deadline
    lease           = pool.lease
    drain           = pool.drain
    agent_port      = 7443
    mesh_interface  = "nebula1"
    baked           = local.images[name] == "baked"
    model_storage   = merge(local.model_storage[name], { bucket_prefix = pool.model_storage.kind == "s3" ? "models/" : null })
  }) }

  model_storage = { for name, pool in var.pools : name => {
    kind        = pool.model_storage.kind
    volume_id   = try(aws_ebs_volume.models[name].id, null)
    snapshot_id = try(local.snapshots[name], null)
  } }

  # No templatefile: the script is bash, full of ${}. It takes both texts between quoted here-document marks.
  user_data = { for name, json in local.node_json : name => base64gzip(
    replace(replace(file("${path.module}/files/bootstrap.sh"), "@NODE_JSON@", json), "@AGENT@", file("${path.module}/files/agent.py"))
  ) }
}

resource "aws_launch_template" "this" {
  #checkov:skip=CKV_AWS_88:A public address costs nothing while no machine runs, and only the mesh's port is open; private_subnet puts nodes behind NAT.
  for_each                             = local.groups
  name                                 = each.value.name
  description                          = "Pool ${each.value.pool} of Lamplighter, ${each.value.market}"
  image_id                             = local.amis[each.value.pool]
  user_data                            = local.user_data[each.value.pool]
  update_default_version               = true
  instance_initiated_shutdown_behavior = "terminate" # the last resort of a node's end is `shutdown`
  ebs_optimized                        = true
  tags                                 = merge(local.tags, { "lamplighter:pool" = each.value.pool })

  # No instance_market_options: AWS refuses them in a mixed-instances group, which says by itself what is bought.

  iam_instance_profile {
    arn = aws_iam_instance_profile.nodes.arn
  }

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1 # the machine itself; an engine's container, one hop further, cannot take its credentials
    instance_metadata_tags      = "enabled"
  }

  network_interfaces {
    associate_public_ip_address = !var.private_subnet
    security_groups             = [aws_security_group.nodes.id]
    delete_on_termination       = true
  }

  block_device_mappings {
    device_name = data.aws_ami.pool[each.value.pool].root_device_name

    ebs {
      volume_type           = "gp3"
      volume_size           = var.pools[each.value.pool].disk_gb
      throughput            = var.pools[each.value.pool].disk_throughput
      encrypted             = true
      delete_on_termination = true
    }
  }

  dynamic "block_device_mappings" {
    for_each = var.pools[each.value.pool].model_storage.kind == "snapshot" ? [var.pools[each.value.pool].model_storage] : []

    content {
      device_name = "/dev/sdf"

      ebs {
        volume_type           = "gp3"
        volume_size           = block_device_mappings.value.size_gb
        throughput            = block_device_mappings.value.throughput
        snapshot_id           = local.snapshots[each.value.pool]
        encrypted             = true
        delete_on_termination = true
      }
    }
  }

  dynamic "tag_specifications" {
    for_each = ["instance", "volume", "network-interface"]

    content {
      resource_type = tag_specifications.value
      tags          = merge(local.tags, { Name = each.value.name, "lamplighter:pool" = each.value.pool })
    }
  }

  lifecycle {
    precondition {
      # Base64 writes three bytes as four.
      condition     = length(local.user_data[each.value.pool]) * 3 / 4 <= 16384
      error_message = "Pool ${each.value.pool}: its user data has more than the 16,384 bytes that EC2 takes."
    }

    precondition {
      condition     = local.image_gb[each.value.pool] <= var.pools[each.value.pool].disk_gb
      error_message = "Pool ${each.value.pool}: its image needs ${local.image_gb[each.value.pool]} GB; make disk_gb at least that."
    }

    precondition {
      condition     = local.images[each.value.pool] != "stock" || !anytrue([for type in var.pools[each.value.pool].instance_types : startswith(type, "g5g.")])
      error_message = "Pool ${each.value.pool}: g5g machines are arm64, and the stock image runs on x86_64 only."
    }
  }
}

resource "aws_autoscaling_group" "this" {
  for_each            = local.groups
  name                = each.value.name
  min_size            = 0
  desired_capacity    = 0
  max_size            = var.pools[each.value.pool].max
  vpc_zone_identifier = [for zone in local.pool_zones[each.value.pool] : var.private_subnet ? aws_subnet.private[zone].id : aws_subnet.public[zone].id]

  # The newest first: when the wish is withdrawn before a machine is up, it is that one that goes.
  termination_policies      = ["NewestInstance"]
  protect_from_scale_in     = false # it would stop the dead-man
  capacity_rebalance        = false # the keeper drains and replaces; AWS would only end the old machine
  health_check_type         = "EC2"
  suspended_processes       = ["AZRebalance"] # moving machines between zones ends answers
  enabled_metrics           = ["GroupDesiredCapacity", "GroupInServiceInstances", "GroupTotalInstances"]
  wait_for_capacity_timeout = "0"
  force_delete              = true # a destroy ends what runs instead of waiting for it

  mixed_instances_policy {
    instances_distribution {
      on_demand_base_capacity                  = 0
      on_demand_percentage_above_base_capacity = each.value.market == "spot" ? 0 : 100
      on_demand_allocation_strategy            = "lowest-price"
      spot_allocation_strategy                 = var.pools[each.value.pool].allocation
      spot_max_price                           = each.value.market == "spot" && var.pools[each.value.pool].max_price != null ? var.pools[each.value.pool].max_price : ""
    }

    launch_template {
      launch_template_specification {
        launch_template_id = aws_launch_template.this[each.key].id
        version            = aws_launch_template.this[each.key].latest_version
      }

      dynamic "override" {
        for_each = var.pools[each.value.pool].instance_types

        content {
          instance_type = override.value
        }
      }
    }
  }

  dynamic "tag" {
    for_each = merge(local.tags, { Name = each.value.name, "lamplighter:pool" = each.value.pool })

    content {
      key                 = tag.key
      value               = tag.value
      propagate_at_launch = true
    }
  }

  lifecycle {
    # The keeper writes both: what it wants, and its open orders as tags.
    ignore_changes = [desired_capacity, tag]

    precondition {
      condition     = length(local.pool_zones[each.value.pool]) > 0
      error_message = "Pool ${each.value.pool}: none of its zones offers ${join(" or ", var.pools[each.value.pool].instance_types)}."
    }
  }

  # A machine that comes up before it may report or end itself would be lost until its deadline.
  depends_on = [aws_iam_role_policy.nodes, aws_route.internet, aws_route.nat, aws_route_table_association.public, aws_route_table_association.private]
}
