# What a person should hear of although nobody looks: a machine that runs and runs, a dead-man that had to act, messages that nobody could read,
# a lighthouse that is out.

resource "aws_cloudwatch_metric_alarm" "long_run" {
  for_each            = local.groups
  alarm_name          = "${each.value.name}-runs-long"
  alarm_description   = "Group ${each.value.name} had a machine for ${var.longest_run_hours} hours without a pause. Is somebody using it?"
  namespace           = "AWS/AutoScaling"
  metric_name         = "GroupTotalInstances"
  dimensions          = { AutoScalingGroupName = each.value.name }
  statistic           = "Minimum"
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = 1
  period              = 3600
  evaluation_periods  = var.longest_run_hours
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alerts.arn]
  tags                = merge(local.tags, { "lamplighter:pool" = each.value.pool })
}

resource "aws_cloudwatch_metric_alarm" "dead_man" {
  count               = length(local.rules) > 0 ? 1 : 0
  alarm_name          = "${var.stack}-dead-man-acted"
  alarm_description   = "AWS ended a machine because nobody renewed its group. The keeper was away, or home could not reach AWS."
  namespace           = "AWS/Events"
  metric_name         = "TriggeredRules"
  dimensions          = { RuleName = aws_cloudwatch_event_rule.this["dead-man"].name }
  statistic           = "Sum"
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = 1
  period              = 300
  evaluation_periods  = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alerts.arn]
  tags                = local.tags
}

resource "aws_cloudwatch_metric_alarm" "unread" {
  for_each            = local.queues
  alarm_name          = "${var.stack}-${each.key}-unread"
  alarm_description   = "${each.value}: messages that could not be read five times lie in ${var.stack}-${each.key}-dead."
  namespace           = "AWS/SQS"
  metric_name         = "ApproximateNumberOfMessagesVisible"
  dimensions          = { QueueName = aws_sqs_queue.dead[each.key].name }
  statistic           = "Maximum"
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = 1
  period              = 300
  evaluation_periods  = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alerts.arn]
  tags                = local.tags
}

resource "aws_cloudwatch_metric_alarm" "lighthouse" {
  count               = var.lighthouse == null ? 0 : 1
  alarm_name          = "${var.stack}-lighthouse-out"
  alarm_description   = "The lighthouse ${var.lighthouse.name} does not answer AWS's own checks. Tunnels that stand stay; new nodes cannot join."
  namespace           = "AWS/EC2"
  metric_name         = "StatusCheckFailed"
  dimensions          = { InstanceId = aws_instance.lighthouse[0].id }
  statistic           = "Maximum"
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = 1
  period              = 60
  evaluation_periods  = 5
  treat_missing_data  = "breaching"
  alarm_actions       = [aws_sns_topic.alerts.arn]
  tags                = local.tags
}
