# All that the keeper knows of a stack: one parameter that it finds by region and name. Version 1; a field is only ever added.

locals {
  manifest = {
    version         = 1
    stack           = var.stack
    installation    = var.installation
    region          = var.region
    account         = local.account
    bucket          = aws_s3_bucket.this.bucket
    nodes_queue_url = aws_sqs_queue.this["nodes"].url
    # What AWS says, from EventBridge.
    events_queue_url = aws_sqs_queue.this["events"].url
    # The sender id of a message in the nodes queue begins with this.
    node_role_id  = aws_iam_role.nodes.unique_id
    node_role_arn = aws_iam_role.nodes.arn
    vpc_id        = aws_vpc.this.id
    log_group     = null
    lighthouse = var.lighthouse == null ? null : {
      name        = var.lighthouse.name
      address     = "${aws_eip.lighthouse[0].public_ip}:${var.mesh_port}"
      instance_id = aws_instance.lighthouse[0].id
    }
    registry         = try(aws_ecr_repository.this[0].repository_url, null)
    hub_token_secret = aws_secretsmanager_secret.hub_token.name
    pools = { for name, pool in var.pools : name => {
      groups         = { for market in ["spot", "on-demand"] : market => aws_autoscaling_group.this["${name}-${market}"].name }
      instance_types = pool.instance_types
      zones          = local.pool_zones[name]
      max            = pool.max
      boot_deadline  = pool.boot_deadline
      lease          = pool.lease
      drain          = pool.drain
      image          = local.images[name]
      ami            = local.amis[name]
      model_storage  = merge(local.model_storage[name], { size_gb = pool.model_storage.size_gb })
    } }
  }
}

resource "aws_ssm_parameter" "manifest" {
  #checkov:skip=CKV2_AWS_34:It holds names and numbers, no secret.
  name        = "/${var.stack}/manifest"
  description = "What Lamplighter's keeper knows of this stack"
  type        = "String"
  value       = jsonencode(local.manifest)
  tags        = local.tags

  # Whoever reads it may use all that it names.
  depends_on = [aws_autoscaling_schedule.dead_man, aws_cloudwatch_event_target.events, aws_s3_bucket_policy.this]

  lifecycle {
    precondition {
      condition     = data.aws_region.current.id == var.region
      error_message = "The provider works in ${data.aws_region.current.id}, but region is ${var.region}."
    }

    precondition {
      condition     = length(jsonencode(local.manifest)) <= 4096
      error_message = "The manifest has more than the 4,096 characters of a free SSM parameter: put some pools into another stack."
    }
  }
}
