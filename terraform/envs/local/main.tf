# Applies the module to an S3-compatible endpoint on this machine, to try it without an account.

terraform {
  required_version = ">= 1.9"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }
}

variable "endpoint" {
  description = "For example http://127.0.0.1:18050."
  type        = string
}

variable "name" {
  type    = string
  default = "tidemark"
}

provider "aws" {
  region                      = "eu-central-1"
  access_key                  = "local"
  secret_key                  = "local"
  s3_use_path_style           = true
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_requesting_account_id  = true
  endpoints {
    iam            = var.endpoint
    kms            = var.endpoint
    s3             = var.endpoint
    secretsmanager = var.endpoint
    sqs            = var.endpoint
    sts            = var.endpoint
  }
}

data "aws_iam_policy_document" "trust" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["ecs-tasks.amazonaws.com"]
    }
  }
}

module "documents" {
  source        = "../../modules/documents"
  name          = var.name
  trust         = data.aws_iam_policy_document.trust.json
  force_destroy = true
}

output "settings" {
  value = module.documents.settings
}

output "roles" {
  value = module.documents.roles
}
