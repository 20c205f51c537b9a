# Two queues to the keeper: what nodes say (AWS vouches for the sender), and what AWS says about nodes. Both forget within an hour: a keeper
# that was away for longer looks at what is, not at what was.

locals {
  queues = {
    nodes  = "What nodes report before they are in the mesh"
    events = "What AWS reports about nodes"
  }

  events = {
    spot-interruption = {
      why     = "A spot machine is taken back in two minutes"
      pattern = { source = ["aws.ec2"], "detail-type" = ["EC2 Spot Instance Interruption Warning"] }
    }
    rebalance = {
      why     = "A spot machine is likelier than others to be taken back"
      pattern = { source = ["aws.ec2"], "detail-type" = ["EC2 Instance Rebalance Recommendation"] }
    }
    # These three cannot be filtered by tag: the keeper ignores instances that are not its own.
    instance-state = {
      why     = "A machine started, stopped or is gone"
      pattern = { source = ["aws.ec2"], "detail-type" = ["EC2 Instance State-change Notification"] }
    }
    launch-failed = {
      why     = "A group could not launch: no capacity, a quota, a wrong AMI"
      pattern = { source = ["aws.autoscaling"], "detail-type" = ["EC2 Instance Launch Unsuccessful"], detail = { AutoScalingGroupName = local.group_names } }
    }
    # AWS names no event for a scheduled action; the cause of the termination that it brings says so.
    dead-man = {
      why = "A group was set to zero inside AWS because nobody renewed it"
      pattern = {
        source        = ["aws.autoscaling"]
        "detail-type" = ["EC2 Instance Terminate Successful"]
        detail        = { AutoScalingGroupName = local.group_names, Cause = [{ wildcard = "*scheduled action*" }] }
      }
    }
  }
  # A pattern with an empty list is refused; without pools there is nothing to hear of either.
  rules = { for name, event in local.events : name => event if length(var.pools) > 0 }
}

resource "aws_sqs_queue" "dead" {
  for_each                  = local.queues
  name                      = "${var.stack}-${each.key}-dead"
  message_retention_seconds = 1209600 # two weeks, the most: what nobody could read is worth a look
  sqs_managed_sse_enabled   = true
  policy                    = local.queue_policies["${each.key}-dead"]
  tags                      = local.tags
}

resource "aws_sqs_queue" "this" {
  for_each                   = local.queues
  name                       = "${var.stack}-${each.key}"
  message_retention_seconds  = 3600
  visibility_timeout_seconds = 30
  receive_wait_time_seconds  = 20
  max_message_size           = each.key == "nodes" ? 16384 : 262144
  sqs_managed_sse_enabled    = true # EventBridge cannot write to a queue under AWS's own KMS key
  policy                     = local.queue_policies[each.key]
  redrive_policy             = jsonencode({ deadLetterTargetArn = aws_sqs_queue.dead[each.key].arn, maxReceiveCount = 5 })
  tags                       = local.tags
}

resource "aws_cloudwatch_event_rule" "this" {
  for_each      = local.rules
  name          = "${var.stack}-${each.key}"
  description   = each.value.why
  event_pattern = jsonencode(each.value.pattern)
  tags          = local.tags
}

resource "aws_cloudwatch_event_target" "events" {
  for_each  = aws_cloudwatch_event_rule.this
  rule      = each.value.name
  target_id = "keeper"
  arn       = aws_sqs_queue.this["events"].arn

  dead_letter_config {
    arn = aws_sqs_queue.dead["events"].arn
  }
}

locals {
  only_encrypted = {
    Sid       = "OnlyEncrypted"
    Effect    = "Deny"
    Principal = "*"
    Condition = { Bool = { "aws:SecureTransport" = "false" } }
  }

  # Roles and users of the account send and receive by their own permissions; EventBridge needs a word in the queue's policy. Written into the
  # queue itself, with its name in place of its address: a resource of its own takes the provider half a minute more.
  queue_policies = { for queue in ["nodes", "events", "nodes-dead", "events-dead"] : queue => jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [merge(local.only_encrypted, { Action = "sqs:*", Resource = "${local.arn}:sqs:${local.here}:${var.stack}-${queue}" })],
      # Only our own rules: without the condition any account's EventBridge could write here.
      [for arns in [[for rule in aws_cloudwatch_event_rule.this : rule.arn]] : {
        Sid       = "OurRules"
        Effect    = "Allow"
        Principal = { Service = "events.amazonaws.com" }
        Action    = "sqs:SendMessage"
        Resource  = "${local.arn}:sqs:${local.here}:${var.stack}-${queue}"
        Condition = { ArnEquals = { "aws:SourceArn" = arns } }
      } if startswith(queue, "events") && length(local.rules) > 0],
    )
  }) }
}
