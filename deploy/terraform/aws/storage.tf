# One bucket: `nodes/` (assignments and last logs, gone after a week), `models/` and `backups/`; and a volume for each pool that keeps its
# weights on one.

resource "aws_s3_bucket" "this" {
  #checkov:skip=CKV_AWS_18:Access logs would be a second bucket that nobody reads; the account's CloudTrail is the place for them.
  #checkov:skip=CKV_AWS_144:Backups are copies already; a second region doubles their cost.
  #checkov:skip=CKV_AWS_145:A customer's KMS key costs 1 USD a month and would be readable by the same roles; AWS's own encryption is on.
  #checkov:skip=CKV2_AWS_62:Nothing waits for events of the bucket: the node asks for its assignment every second.
  bucket_prefix = "${var.stack}-"
  force_destroy = var.force_destroy
  tags          = local.tags
}

resource "aws_s3_bucket_public_access_block" "this" {
  bucket                  = aws_s3_bucket.this.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "this" {
  bucket = aws_s3_bucket.this.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  bucket = aws_s3_bucket.this.id

  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256"
    }
  }
}

# S3 versions a whole bucket or nothing: without backups it is off, and the lifecycle removes old versions of what needs none within a day.
resource "aws_s3_bucket_versioning" "this" {
  bucket = aws_s3_bucket.this.id

  versioning_configuration {
    status = var.backups ? "Enabled" : "Suspended"
  }
}

resource "aws_s3_bucket_policy" "this" {
  bucket = aws_s3_bucket.this.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [merge(local.only_encrypted, {
      Action   = "s3:*"
      Resource = [aws_s3_bucket.this.arn, "${aws_s3_bucket.this.arn}/*"]
    })]
  })
  depends_on = [aws_s3_bucket_public_access_block.this]
}

resource "aws_s3_bucket_lifecycle_configuration" "this" {
  bucket     = aws_s3_bucket.this.id
  depends_on = [aws_s3_bucket_versioning.this]

  rule {
    id     = "nodes"
    status = "Enabled"

    filter {
      prefix = "nodes/"
    }

    expiration {
      days = 7
    }

    noncurrent_version_expiration {
      noncurrent_days = 1
    }
  }

  rule {
    id     = "models"
    status = "Enabled"

    filter {
      prefix = "models/"
    }

    noncurrent_version_expiration {
      noncurrent_days = 1
    }
  }

  rule {
    id     = "backups"
    status = "Enabled"

    filter {
      prefix = "backups/"
    }

    expiration {
      days = var.backup_days
    }

    noncurrent_version_expiration {
      noncurrent_days = 30
    }
  }

  rule {
    id     = "unfinished"
    status = "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 1
    }
  }
}

resource "aws_ebs_volume" "models" {
  #checkov:skip=CKV_AWS_189:AWS's own key encrypts it; a customer's key costs 1 USD a month and protects public weights no better.
  for_each          = { for name, pool in var.pools : name => pool if pool.model_storage.kind == "volume" }
  availability_zone = try(local.pool_zones[each.key][0], "none")
  type              = "gp3"
  size              = each.value.model_storage.size_gb
  throughput        = each.value.model_storage.throughput
  encrypted         = true
  tags              = merge(local.tags, { Name = "${var.stack}-${each.key}-models", "lamplighter:pool" = each.key })

  lifecycle {
    precondition {
      condition     = length(local.pool_zones[each.key]) > 0
      error_message = "Pool ${each.key}: none of its zones offers ${join(" or ", each.value.instance_types)}."
    }

    precondition {
      condition     = length(each.value.zones) <= 1
      error_message = "Pool ${each.key}: a volume lives in one zone; name one, or choose model_storage snapshot, s3 or none."
    }
  }
}

# The newest snapshot of a pool's weights, where somebody has made one; before that a node starts with an empty volume.
data "aws_ebs_snapshot_ids" "models" {
  for_each = { for name, pool in var.pools : name => pool if pool.model_storage.kind == "snapshot" }
  owners   = ["self"]

  filter {
    name   = "tag:lamplighter:stack"
    values = [var.stack]
  }

  filter {
    name   = "tag:lamplighter:pool"
    values = [each.key]
  }

  filter {
    name   = "status"
    values = ["completed"]
  }
}

locals {
  # The provider lists the newest first.
  snapshots = { for name, found in data.aws_ebs_snapshot_ids.models : name => try(found.ids[0], null) }
}
