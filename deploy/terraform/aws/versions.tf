# No provider block: whoever uses the module configures the provider, and its region must be `var.region` (checked in manifest.tf).
# Mocked tests (tests/*.tftest.hcl) need Terraform 1.7 or OpenTofu 1.8; the module itself runs from 1.6 on.

terraform {
  required_version = ">= 1.6"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.80, < 7.0"
    }
  }
}
