# Everything at once: three pools with different storage, private subnets, endpoints, a lighthouse, a registry, backups.

terraform {
  required_version = ">= 1.6"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.80, < 7.0"
    }
  }
}

provider "aws" {
  region = var.region
}

variable "region" {
  description = "The AWS region."
  type        = string
  default     = "eu-central-1"
}

variable "installation" {
  description = "Id of the installation; `lamplighter cloud status` says it."
  type        = string
}

variable "stack" {
  description = "Name of the stack."
  type        = string
  default     = "lamplighter"
}

variable "lighthouse_user_data" {
  description = "What sets the lighthouse up; `lamplighter cloud apply` renders it."
  type        = string
  default     = "#!/bin/sh\necho 'render me with lamplighter cloud'\n"
}

variable "force_destroy" {
  description = "Let a destroy delete what the bucket holds."
  type        = bool
  default     = false
}

module "lamplighter" {
  source       = "../.."
  stack        = var.stack
  installation = var.installation
  region       = var.region

  pools = {
    # The fastest wake, in one zone: the weights stay on a volume.
    small = {
      instance_types = ["g4dn.xlarge", "g5.xlarge"]
      zones          = ["${var.region}b"]
      model_storage  = { kind = "volume", size_gb = 100 }
      max_price      = "0.50"
    }
    # Any zone, several at a time, from the newest snapshot of the weights.
    wide = {
      instance_types = ["g5.2xlarge", "g6.2xlarge"]
      max            = 4
      allocation     = "lowest-price"
      model_storage  = { kind = "snapshot", size_gb = 200 }
    }
    # Weights from the stack's bucket.
    shared = {
      instance_types = ["g5.xlarge"]
      model_storage  = { kind = "s3" }
      boot_deadline  = 1200
      lease          = 600
    }
  }

  vpc_cidr          = "10.79.0.0/16"
  private_subnet    = true
  vpc_endpoints     = true
  alerts            = ["operator@example.org"]
  monthly_budgets   = [25, 75]
  registry          = true
  backups           = true
  backup_days       = 30
  force_destroy     = var.force_destroy
  dead_man_minutes  = 10
  longest_run_hours = 8
  session_manager   = true
  tags              = { owner = "home" }

  lighthouse = {
    name      = "lighthouse-aws"
    user_data = var.lighthouse_user_data
  }
}

output "manifest" {
  description = "What the keeper knows of the stack."
  value       = module.lamplighter.manifest
}

output "keeper_policy_arn" {
  description = "Attach it to the keeper's user or role."
  value       = module.lamplighter.keeper_policy_arn
}

output "lighthouse_address" {
  description = "Write it into `mesh.lighthouses` of machines outside."
  value       = module.lamplighter.lighthouse_address
}
