# The module without any AWS: what it makes of its variables, and what it refuses. The provider is mocked.

mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_data "aws_region" {
    defaults = { id = "eu-central-1" }
  }
  mock_data "aws_availability_zones" {
    defaults = { names = ["eu-central-1a", "eu-central-1b", "eu-central-1c"] }
  }
  mock_data "aws_ec2_instance_type_offerings" {
    defaults = { locations = ["eu-central-1b", "eu-central-1c"] }
  }
  mock_data "aws_ssm_parameter" {
    defaults = { insecure_value = "ami-0123456789abcdef0" }
  }
  mock_data "aws_ami" {
    defaults = { root_device_name = "/dev/sda1", block_device_mappings = [] }
  }
  mock_data "aws_ebs_snapshot_ids" {
    defaults = { ids = ["snap-0000000000000000a", "snap-0000000000000000b"] }
  }
  mock_data "aws_ec2_instance_type" {
    defaults = { supported_architectures = ["arm64"] }
  }
  mock_resource "aws_s3_bucket" {
    defaults = { arn = "arn:aws:s3:::lamplighter-mock", bucket = "lamplighter-mock" }
  }
  mock_resource "aws_sqs_queue" {
    defaults = { arn = "arn:aws:sqs:eu-central-1:123456789012:mock", url = "https://sqs.eu-central-1.amazonaws.com/123456789012/mock" }
  }
  mock_resource "aws_sns_topic" {
    defaults = { arn = "arn:aws:sns:eu-central-1:123456789012:mock" }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/mock", unique_id = "AROAMOCKMOCKMOCKMOCKM" }
  }
  mock_resource "aws_iam_policy" {
    defaults = { arn = "arn:aws:iam::123456789012:policy/mock" }
  }
  mock_resource "aws_iam_instance_profile" {
    defaults = { arn = "arn:aws:iam::123456789012:instance-profile/mock" }
  }
  mock_resource "aws_secretsmanager_secret" {
    defaults = { arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:mock-AbCdEf" }
  }
  mock_resource "aws_ecr_repository" {
    defaults = { arn = "arn:aws:ecr:eu-central-1:123456789012:repository/mock", repository_url = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/mock" }
  }
  mock_resource "aws_cloudwatch_event_rule" {
    defaults = { arn = "arn:aws:events:eu-central-1:123456789012:rule/mock" }
  }
  mock_resource "aws_launch_template" {
    defaults = { id = "lt-0123456789abcdef0", latest_version = 1 }
  }
  mock_resource "aws_eip" {
    defaults = { public_ip = "203.0.113.7" }
  }
  mock_resource "aws_vpc" {
    defaults = { cidr_block = "10.78.0.0/16" }
  }
}

variables {
  installation = "inst-1"
  region       = "eu-central-1"
  pools        = { spot = { instance_types = ["g4dn.xlarge", "g5.xlarge"] } }
}

run "defaults" {
  command = apply

  assert {
    condition     = output.manifest.pools["spot"].groups == { "spot" = "lamplighter-spot-spot", "on-demand" = "lamplighter-spot-on-demand" }
    error_message = "A pool has a group on each market, called after stack, pool and market."
  }
  assert {
    condition     = alltrue([for group in aws_autoscaling_group.this : group.min_size == 0 && group.desired_capacity == 0 && group.max_size == 2])
    error_message = "Groups begin at zero, and leave place for one machine that replaces another."
  }
  assert {
    condition     = aws_autoscaling_group.this["spot-spot"].mixed_instances_policy[0].instances_distribution[0].on_demand_percentage_above_base_capacity == 0
    error_message = "The spot group buys spot machines."
  }
  assert {
    condition     = aws_autoscaling_group.this["spot-on-demand"].mixed_instances_policy[0].instances_distribution[0].on_demand_percentage_above_base_capacity == 100
    error_message = "The on-demand group buys no spot machines."
  }
  assert {
    condition     = join(",", [for override in aws_autoscaling_group.this["spot-spot"].mixed_instances_policy[0].launch_template[0].override : override.instance_type]) == "g4dn.xlarge,g5.xlarge"
    error_message = "Types are tried in the order in which they were written."
  }
  assert {
    condition     = alltrue([for action in aws_autoscaling_schedule.dead_man : action.recurrence == "*/5 * * * *" && action.desired_capacity == 0 && action.min_size == 0]) && length(aws_autoscaling_schedule.dead_man) == 2
    error_message = "Each group has its dead-man."
  }
  assert {
    condition     = join(",", output.manifest.pools["spot"].zones) == "eu-central-1b"
    error_message = "A volume's pool stays in the first zone that offers its types."
  }
  assert {
    condition     = output.manifest.pools["spot"].image == "stock" && output.manifest.pools["spot"].ami == "ami-0123456789abcdef0"
    error_message = "Without another image it is AWS's own, by its public parameter."
  }
  assert {
    condition     = output.manifest.lighthouse == null && output.manifest.registry == null && length(aws_nat_gateway.this) == 0 && length(aws_vpc_endpoint.services) == 0
    error_message = "What costs money while nobody asks is not made unless it was asked for."
  }
  assert {
    condition     = join(",", sort(keys(aws_budgets_budget.monthly))) == "100,200,50"
    error_message = "AWS warns at 50, 100 and 200 USD a month."
  }
  assert {
    condition     = length(jsonencode(output.manifest)) <= 4096 && length(output.keeper_policy_json) <= 6144
    error_message = "The manifest fits a free SSM parameter, the keeper's policy a managed policy."
  }
  assert {
    condition     = !strcontains(aws_iam_role_policy.nodes.policy, "ecr:") && !strcontains(aws_iam_role_policy.nodes.policy, "models/*") && strcontains(aws_iam_role_policy.nodes.policy, "nodes/$${aws:userid}/*")
    error_message = "A node may do only what its stack needs, and sees only its own folder."
  }
}

run "everything" {
  command = apply

  variables {
    pools = {
      wide   = { instance_types = ["g5.xlarge"], max = 4, model_storage = { kind = "snapshot", size_gb = 50 }, allocation = "lowest-price", max_price = "0.35" }
      shared = { instance_types = ["g5.xlarge"], model_storage = { kind = "s3" }, image = "baked", zones = ["eu-central-1c"] }
      own    = { instance_types = ["g5.xlarge"], model_storage = { kind = "none" }, ami = "ami-00000000" }
    }
    private_subnet   = true
    vpc_endpoints    = true
    registry         = true
    session_manager  = true
    alerts           = ["one@example.org", "two@example.org"]
    monthly_budgets  = [10]
    dead_man_minutes = 10
    mesh_port        = 4343
    lighthouse       = { name = "light", user_data = "#!/bin/sh\n" }
    tags             = { owner = "home" }
  }

  assert {
    condition     = aws_launch_template.this["wide-spot"].block_device_mappings[1].ebs[0].snapshot_id == "snap-0000000000000000a" && length(aws_launch_template.this["shared-spot"].block_device_mappings) == 1
    error_message = "A pool with snapshots begins with the newest one; the others have only their own disk."
  }
  assert {
    condition     = length(aws_ebs_volume.models) == 0
    error_message = "Only pools with a volume have one."
  }
  assert {
    condition     = aws_autoscaling_group.this["wide-spot"].mixed_instances_policy[0].instances_distribution[0].spot_max_price == "0.35" && aws_autoscaling_group.this["wide-on-demand"].mixed_instances_policy[0].instances_distribution[0].spot_max_price == ""
    error_message = "The highest price is one of the spot market."
  }
  assert {
    condition     = join(",", output.manifest.pools["shared"].zones) == "eu-central-1c" && join(",", output.manifest.pools["wide"].zones) == "eu-central-1b,eu-central-1c"
    error_message = "Without a volume a pool uses every zone that it may and that offers its types."
  }
  assert {
    condition     = output.manifest.pools["shared"].image == "baked" && output.manifest.pools["own"].image == "ami-00000000"
    error_message = "The manifest says which image a pool starts from."
  }
  assert {
    condition     = output.manifest.lighthouse.address == "203.0.113.7:4343" && alltrue([for rule in aws_vpc_security_group_ingress_rule.mesh : rule.from_port == 4343])
    error_message = "The mesh's port is the one that was asked for."
  }
  assert {
    condition     = length(aws_nat_gateway.this) == 1 && length(aws_subnet.private) == 3 && alltrue([for template in aws_launch_template.this : template.network_interfaces[0].associate_public_ip_address == "false"])
    error_message = "In private subnets a node has no public address, and one NAT gateway serves all."
  }
  assert {
    condition     = toset(keys(aws_vpc_endpoint.services)) == toset(["autoscaling", "ec2", "ecr.api", "ecr.dkr", "secretsmanager", "sqs", "ssm", "ssmmessages"])
    error_message = "Endpoints are there for what nodes use."
  }
  assert {
    condition     = strcontains(aws_iam_role_policy.nodes.policy, "ecr:BatchGetImage") && strcontains(aws_iam_role_policy.nodes.policy, "models/*") && !strcontains(aws_iam_role_policy.nodes.policy, "AttachVolume")
    error_message = "A node may pull and read models where it must, and attach volumes only where there are some."
  }
  assert {
    condition     = length(aws_sns_topic_subscription.alerts) == 2 && aws_vpc.this.tags["owner"] == "home" && aws_vpc.this.tags["lamplighter:stack"] == "lamplighter"
    error_message = "Everybody named hears of alarms; a person's own tags come beside ours."
  }
}

run "no_pools" {
  command = apply

  variables {
    pools = {}
  }

  assert {
    condition     = length(aws_autoscaling_group.this) == 0 && length(aws_cloudwatch_event_rule.this) == 0
    error_message = "A stack whose last pool was removed stands without groups."
  }
}

run "volume_in_two_zones" {
  command = plan

  variables {
    pools = { spot = { instance_types = ["g5.xlarge"], zones = ["eu-central-1b", "eu-central-1c"] } }
  }

  expect_failures = [aws_ebs_volume.models]
}

run "zone_without_the_type" {
  command = plan

  variables {
    pools = { spot = { instance_types = ["g5.xlarge"], zones = ["eu-central-1a"], model_storage = { kind = "none" } } }
  }

  expect_failures = [aws_autoscaling_group.this]
}

run "arm_on_the_stock_image" {
  command = plan

  variables {
    pools = { spot = { instance_types = ["g5g.xlarge"] } }
  }

  expect_failures = [aws_launch_template.this]
}

run "image_larger_than_the_disk" {
  command = plan

  override_data {
    target = data.aws_ami.pool
    values = { root_device_name = "/dev/sda1", block_device_mappings = [{ device_name = "/dev/sda1", ebs = { volume_size = "65" } }] }
  }

  variables {
    pools = { spot = { instance_types = ["g5.xlarge"], disk_gb = 40 } }
  }

  expect_failures = [aws_launch_template.this]
}

run "another_region" {
  command = plan

  variables {
    region = "us-east-1"
  }

  expect_failures = [aws_ssm_parameter.manifest]
}

run "words_that_are_refused" {
  command = plan

  variables {
    stack            = "Lamp"
    vpc_cidr         = "10.78.0.0/28"
    alerts           = ["nobody"]
    monthly_budgets  = [0]
    dead_man_minutes = 7
    mesh_port        = 70000
    tags             = { "lamplighter:stack" = "mine", "a/b" = "c" }
    pools            = { spot = { instance_types = ["big"], max = 0, allocation = "cheapest", image = "mine", lease = 10, max_price = "cheap", model_storage = { kind = "tape", size_gb = 1 } } }
  }

  expect_failures = [var.stack, var.vpc_cidr, var.alerts, var.monthly_budgets, var.dead_man_minutes, var.mesh_port, var.tags, var.pools]
}
