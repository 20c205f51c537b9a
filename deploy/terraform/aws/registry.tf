# A place for engine images of your own, and the one secret that nodes may read: the token of the model hub.

resource "aws_ecr_repository" "this" {
  #checkov:skip=CKV_AWS_136:AWS's own key encrypts it; a customer's key costs 1 USD a month and protects public images no better.
  count                = var.registry ? 1 : 0
  name                 = "${var.stack}/engine"
  image_tag_mutability = "IMMUTABLE"
  force_delete         = var.force_destroy
  tags                 = local.tags

  image_scanning_configuration {
    scan_on_push = true
  }

  encryption_configuration {
    encryption_type = "AES256"
  }
}

resource "aws_ecr_lifecycle_policy" "this" {
  count      = var.registry ? 1 : 0
  repository = aws_ecr_repository.this[0].name
  policy = jsonencode({
    rules = [
      {
        rulePriority = 1
        description  = "Images without a tag, after a day"
        selection    = { tagStatus = "untagged", countType = "sinceImagePushed", countUnit = "days", countNumber = 1 }
        action       = { type = "expire" }
      },
      {
        rulePriority = 2
        description  = "All but the newest five: an engine image has 10 GB, which is 1 USD a month"
        selection    = { tagStatus = "any", countType = "imageCountMoreThan", countNumber = 5 }
        action       = { type = "expire" }
      },
    ]
  })
}

# Empty until the keeper puts the token in: a value in Terraform would stand in its state in clear.
resource "aws_secretsmanager_secret" "hub_token" {
  #checkov:skip=CKV_AWS_149:AWS's own key encrypts it; a customer's key costs 1 USD a month and would be readable by the same roles.
  #checkov:skip=CKV2_AWS_57:The hub issues the token; AWS cannot rotate it.
  name        = "${var.stack}/hub-token"
  description = "Token of the model hub, for models that ask for one"
  # Deleted at once: a secret that waits for its deletion blocks its name, and the token can be had again from the hub.
  recovery_window_in_days = 0
  tags                    = local.tags
}
