# Who may do what. Each statement's Sid says what it is for, the comment why it cannot be narrower.
#   nodes       the role of GPU machines: report, read their own assignment, end themselves
#   lighthouse  the role of the lighthouse: its own settings
#   keeper      a policy for whoever runs Lamplighter at home: wake, watch and end what carries the stack's tag

locals {
  arn    = "arn:${local.partition}"
  here   = "${var.region}:${local.account}"
  bucket = aws_s3_bucket.this.arn

  # A pattern by name would also match a stack whose name begins like ours; the tag decides.
  our_groups    = "${local.arn}:autoscaling:${local.here}:autoScalingGroup:*:autoScalingGroupName/${var.stack}-*"
  our_instances = "${local.arn}:ec2:${local.here}:instance/*"
  our_stack     = { StringEquals = { "aws:ResourceTag/lamplighter:stack" = var.stack } }

  machine_trust = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "MachinesOfEc2"
      Effect    = "Allow"
      Principal = { Service = "ec2.amazonaws.com" }
      Action    = "sts:AssumeRole"
    }]
  })

  node_statements = concat(
    [
      # "I am here, this is my public key", stages, "I end myself". AWS writes the sender's id into the message.
      { Sid = "ReportToTheKeeper", Effect = "Allow", Action = ["sqs:SendMessage"], Resource = [aws_sqs_queue.this["nodes"].arn] },
      # ${aws:userid} is "<role id>:<instance id>": each machine sees its own folder and no other's.
      { Sid = "OwnAssignmentAndLogs", Effect = "Allow", Action = ["s3:GetObject", "s3:PutObject"], Resource = ["${local.bucket}/nodes/$${aws:userid}/*"] },
      # Only for pools whose models ask for it; which model that is, the keeper says.
      { Sid = "HubToken", Effect = "Allow", Action = ["secretsmanager:GetSecretValue"], Resource = [aws_secretsmanager_secret.hub_token.arn] },
      # The end of a node: terminate and lower the desired capacity at once, so that its group does not replace it. AWS cannot limit this to the
      # caller itself; a broken node could end its siblings, never start anything.
      { Sid = "EndItself", Effect = "Allow", Action = ["autoscaling:TerminateInstanceInAutoScalingGroup"], Resource = [local.our_groups], Condition = local.our_stack },
    ],
    [for statement in [
      { Sid = "ReadModels", Effect = "Allow", Action = ["s3:GetObject"], Resource = ["${local.bucket}/models/*"] },
      # Copying a folder begins with listing it.
      { Sid = "ListModels", Effect = "Allow", Action = ["s3:ListBucket"], Resource = [local.bucket], Condition = { StringLike = { "s3:prefix" = ["models/*"] } } },
    ] : statement if contains(local.storage_kinds, "s3")],
    [for statement in [
      # A volume and a machine of this stack; nothing else can be attached, and to nothing else.
      {
        Sid       = "AttachModels", Effect = "Allow", Action = ["ec2:AttachVolume"],
        Resource  = ["${local.arn}:ec2:${local.here}:volume/*", local.our_instances],
        Condition = local.our_stack
      },
    ] : statement if contains(local.storage_kinds, "volume")],
    [for statement in local.pull_statements : statement if var.registry],
    [for statement in local.session_statements : statement if var.session_manager],
  )

  only_this_region = { StringEquals = { "aws:RequestedRegion" = var.region } }

  pull_statements = [
    # A token names no repository; AWS knows no narrower resource for it.
    { Sid = "RegistryLogin", Effect = "Allow", Action = ["ecr:GetAuthorizationToken"], Resource = ["*"], Condition = local.only_this_region },
    { Sid = "RegistryPull", Effect = "Allow", Action = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"], Resource = aws_ecr_repository.this[*].arn },
  ]

  # What Session Manager needs, and no more: AWS's own policy for it also reads every parameter, the lighthouse's key among them. It knows no
  # narrower resource.
  session_statements = [
    {
      Sid = "SessionManager", Effect = "Allow", Resource = ["*"], Condition = local.only_this_region
      Action = [
        "ssm:UpdateInstanceInformation", "ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel",
        "ssmmessages:OpenControlChannel", "ssmmessages:OpenDataChannel",
      ]
    },
  ]

  keeper_statements = concat(
    [
      # Looking. None of these calls knows a narrower resource than everything; they change nothing.
      {
        Sid = "SeeWhatRuns", Effect = "Allow", Resource = ["*"], Condition = local.only_this_region
        Action = [
          "autoscaling:DescribeAutoScalingGroups", "autoscaling:DescribeScalingActivities", "autoscaling:DescribeScheduledActions",
          "ec2:DescribeAddresses", "ec2:DescribeInstances", "ec2:DescribeSpotPriceHistory", "ec2:DescribeVolumes",
          "ec2:GetSpotPlacementScores", "servicequotas:GetServiceQuota",
        ]
      },
      # AWS answers questions about prices in three regions only, whichever is asked about.
      { Sid = "SeePrices", Effect = "Allow", Action = ["pricing:GetProducts"], Resource = ["*"] },
      # Waking, renewing the dead-man, ending, and the tags in which orders are kept.
      {
        Sid = "WakeRenewAndEnd", Effect = "Allow", Resource = [local.our_groups], Condition = local.our_stack
        Action = [
          "autoscaling:PutScheduledUpdateGroupAction", "autoscaling:SetDesiredCapacity", "autoscaling:TerminateInstanceInAutoScalingGroup",
        ]
      },
      {
        Sid       = "KeepOrders", Effect = "Allow", Resource = [local.our_groups]
        Action    = ["autoscaling:CreateOrUpdateTags", "autoscaling:DeleteTags"]
        Condition = merge(local.our_stack, { "ForAllValues:StringLike" = { "aws:TagKeys" = ["lamplighter:order:*"] } })
      },
      # Which replica and model a machine is. What is not ours cannot be made ours: the tag of the stack must be there already.
      {
        Sid       = "NameReplicas", Effect = "Allow", Action = ["ec2:CreateTags", "ec2:DeleteTags"], Resource = [local.our_instances]
        Condition = merge(local.our_stack, { "ForAllValues:StringLike" = { "aws:TagKeys" = ["lamplighter:*"] } })
      },
      # Orphans that no group holds any more, and the console of a machine that died before it could speak.
      { Sid = "EndOrphans", Effect = "Allow", Action = ["ec2:GetConsoleOutput", "ec2:TerminateInstances"], Resource = [local.our_instances], Condition = local.our_stack },
      {
        Sid      = "ReadReports", Effect = "Allow", Action = ["sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:ReceiveMessage"]
        Resource = [for queue in aws_sqs_queue.this : queue.arn]
      },
      # A node's assignment, which goes with it, and the last logs that it left.
      { Sid = "AssignAndReadLogs", Effect = "Allow", Action = ["s3:DeleteObject", "s3:GetObject", "s3:PutObject"], Resource = ["${local.bucket}/nodes/*"] },
      {
        Sid       = "ListOwnFolders", Effect = "Allow", Action = ["s3:ListBucket"], Resource = [local.bucket]
        Condition = { StringLike = { "s3:prefix" = concat(["nodes/*"], var.backups ? ["backups/*"] : []) } }
      },
      { Sid = "ReadManifest", Effect = "Allow", Action = ["ssm:GetParameter"], Resource = ["${local.arn}:ssm:${local.here}:parameter/${var.stack}/manifest"] },
      # It writes the hub's token and cannot read it back.
      { Sid = "StoreHubToken", Effect = "Allow", Action = ["secretsmanager:DescribeSecret", "secretsmanager:PutSecretValue"], Resource = [aws_secretsmanager_secret.hub_token.arn] },
    ],
    # What is revoked, for the lighthouse to read; its key and certificate are a person's to write.
    [for statement in [
      { Sid = "TellLighthouse", Effect = "Allow", Action = ["ssm:PutParameter"], Resource = ["${local.arn}:ssm:${local.here}:parameter/${var.stack}/lighthouse/blocklist.yml"] },
    ] : statement if var.lighthouse != null],
    [for statement in [
      { Sid = "Backups", Effect = "Allow", Action = ["s3:DeleteObject", "s3:GetObject", "s3:PutObject"], Resource = ["${local.bucket}/backups/*"] },
    ] : statement if var.backups],
  )
  keeper_policy = { Version = "2012-10-17", Statement = local.keeper_statements }
}

resource "aws_iam_role" "nodes" {
  name               = "${var.stack}-${var.region}-nodes"
  description        = "GPU machines of Lamplighter"
  assume_role_policy = local.machine_trust
  tags               = local.tags
}

resource "aws_iam_role_policy" "nodes" {
  name   = "node"
  role   = aws_iam_role.nodes.id
  policy = jsonencode({ Version = "2012-10-17", Statement = local.node_statements })
}

resource "aws_iam_instance_profile" "nodes" {
  name = aws_iam_role.nodes.name
  role = aws_iam_role.nodes.name
  tags = local.tags
}

resource "aws_iam_policy" "keeper" {
  name        = "${var.stack}-${var.region}-keeper"
  description = "What Lamplighter at home may do with this stack"
  policy      = jsonencode(local.keeper_policy)
  tags        = local.tags

  lifecycle {
    precondition {
      condition     = length(jsonencode(local.keeper_policy)) <= 6144
      error_message = "The keeper's policy is larger than the 6,144 characters that IAM takes."
    }
  }
}
