output "manifest" {
  description = "What the keeper knows of the stack: the content of the SSM parameter `/<stack>/manifest`."
  value       = local.manifest
  depends_on  = [aws_ssm_parameter.manifest]
}

output "manifest_parameter" {
  description = "Name of that parameter."
  value       = aws_ssm_parameter.manifest.name
}

output "keeper_policy_json" {
  description = "What Lamplighter at home may do with this stack, as an IAM policy."
  value       = jsonencode(local.keeper_policy)
}

output "keeper_policy_arn" {
  description = "The same as a managed policy, to be attached to the keeper's user or role."
  value       = aws_iam_policy.keeper.arn
}

output "bucket" {
  description = "Name of the stack's bucket."
  value       = aws_s3_bucket.this.bucket
}

output "alerts_topic_arn" {
  description = "The SNS topic of budgets and alarms, for receivers other than mail."
  value       = aws_sns_topic.alerts.arn
}

output "lighthouse_address" {
  description = "Where the lighthouse is reached, as `address:port`; null without one."
  value       = try(local.manifest.lighthouse.address, null)
}

output "registry_url" {
  description = "Where to push engine images of your own; null without a registry."
  value       = local.manifest.registry
}

output "nat_address" {
  description = "The address from which nodes in private subnets come; null without them."
  value       = one(aws_eip.nat[*].public_ip)
}
