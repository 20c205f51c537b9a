# AWS's own warnings about money, of the whole account: what carries no tag of ours costs too. They warn, they stop nothing; Lamplighter's own
# budgets refuse and drain. AWS knows the costs some hours later.

# CloudWatch, Budgets and EventBridge cannot write to a topic under AWS's own KMS key.
resource "aws_sns_topic" "alerts" {
  #checkov:skip=CKV_AWS_26:Only warnings pass through; a customer's key, which the senders would need, costs 1 USD a month.
  name = "${var.stack}-alerts"
  tags = local.tags
}

resource "aws_sns_topic_policy" "alerts" {
  arn = aws_sns_topic.alerts.arn
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "WarningsOfThisAccount"
        Effect    = "Allow"
        Principal = { Service = ["budgets.amazonaws.com", "cloudwatch.amazonaws.com"] }
        Action    = "sns:Publish"
        Resource  = aws_sns_topic.alerts.arn
        Condition = { StringEquals = { "aws:SourceAccount" = local.account } }
      },
      merge(local.only_encrypted, { Action = "sns:Publish", Resource = aws_sns_topic.alerts.arn }),
    ]
  })
}

resource "aws_sns_topic_subscription" "alerts" {
  for_each  = toset(var.alerts)
  topic_arn = aws_sns_topic.alerts.arn
  protocol  = "email"
  endpoint  = each.value
}

resource "aws_budgets_budget" "monthly" {
  for_each     = toset([for amount in var.monthly_budgets : tostring(amount)])
  name         = "${var.stack}-${each.value}-usd"
  budget_type  = "COST"
  time_unit    = "MONTHLY"
  limit_amount = each.value
  limit_unit   = "USD"
  tags         = local.tags

  dynamic "notification" {
    for_each = ["FORECASTED", "ACTUAL"]

    content {
      notification_type         = notification.value
      comparison_operator       = "GREATER_THAN"
      threshold                 = 100
      threshold_type            = "PERCENTAGE"
      subscriber_sns_topic_arns = [aws_sns_topic.alerts.arn]
      # Mail straight from Budgets needs no confirmation: it arrives even where the topic's was overlooked.
      subscriber_email_addresses = var.alerts
    }
  }

  depends_on = [aws_sns_topic_policy.alerts]
}
