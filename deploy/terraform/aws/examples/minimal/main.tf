# The least: one pool of one spot machine, public addresses, AWS's own warnings by mail.

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

variable "alerts" {
  description = "Who gets AWS's warnings."
  type        = list(string)
  default     = []
}

module "lamplighter" {
  source       = "../.."
  installation = var.installation
  region       = var.region
  alerts       = var.alerts

  pools = {
    spot = {
      instance_types = ["g4dn.xlarge", "g5.xlarge"]
    }
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
