# What Tidemark needs of AWS to follow a bucket: the bucket, its notifications, the queue, a place of its own, secrets, and one role
# for each part, with no more rights than that part uses.

terraform {
  required_version = ">= 1.9"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }
}

data "aws_caller_identity" "this" {}

locals {
  buckets = {
    documents = "${var.name}-documents" # watched: people and systems put documents here
    internal  = "${var.name}-internal"  # row objects, uploads
    artifacts = "${var.name}-artifacts" # parsed text, chunks, vectors
    audit     = "${var.name}-audit"     # signed checkpoints of the audit log, which nobody can delete or replace before their time
  }
  queue_name = "${var.name}-documents"
}

resource "aws_s3_bucket" "this" {
  for_each      = local.buckets
  bucket        = each.value
  force_destroy = var.force_destroy
  tags          = var.tags

  object_lock_enabled = each.key == "audit"
}

resource "aws_s3_bucket_object_lock_configuration" "audit" {
  bucket = aws_s3_bucket.this["audit"].id
  rule {
    default_retention {
      mode = "COMPLIANCE" # not even the root user shortens it
      days = var.audit_days
    }
  }
}

resource "aws_s3_bucket_public_access_block" "this" {
  for_each                = aws_s3_bucket.this
  bucket                  = each.value.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  for_each = aws_s3_bucket.this
  bucket   = each.value.id
  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = aws_kms_key.this.arn
    }
    bucket_key_enabled = true
  }
}

# Only the watched bucket keeps versions (and the locked one, which has to): what is derived can be derived again, and must be quick to erase.
resource "aws_s3_bucket_versioning" "documents" {
  bucket = aws_s3_bucket.this["documents"].id
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "documents" {
  bucket = aws_s3_bucket.this["documents"].id
  rule {
    id     = "old-versions"
    status = "Enabled"
    filter {}
    noncurrent_version_expiration {
      noncurrent_days = var.noncurrent_days
    }
    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
  }
}

resource "aws_kms_key" "this" {
  description             = "${var.name}: documents, queue and secrets"
  enable_key_rotation     = true
  deletion_window_in_days = 30
  policy                  = data.aws_iam_policy_document.key.json
  tags                    = var.tags
}

data "aws_iam_policy_document" "key" {
  statement {
    sid       = "Account"
    actions   = ["kms:*"]
    resources = ["*"]
    principals {
      type        = "AWS"
      identifiers = ["arn:aws:iam::${data.aws_caller_identity.this.account_id}:root"]
    }
  }
  statement {
    sid       = "NotificationsToTheQueue"
    actions   = ["kms:GenerateDataKey", "kms:Decrypt"]
    resources = ["*"]
    principals {
      type        = "Service"
      identifiers = ["s3.amazonaws.com"]
    }
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [data.aws_caller_identity.this.account_id]
    }
  }
}

resource "aws_sqs_queue" "undeliverable" {
  name                      = "${local.queue_name}-undeliverable"
  message_retention_seconds = 1209600
  kms_master_key_id         = aws_kms_key.this.id
  tags                      = var.tags
}

resource "aws_sqs_queue" "documents" {
  name                       = local.queue_name
  visibility_timeout_seconds = 60
  receive_wait_time_seconds  = 20
  message_retention_seconds  = 345600
  kms_master_key_id          = aws_kms_key.this.id
  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.undeliverable.arn
    maxReceiveCount     = 10
  })
  tags = var.tags
}

data "aws_iam_policy_document" "queue" {
  statement {
    sid       = "OnlyThisBucketTells"
    actions   = ["sqs:SendMessage"]
    resources = [aws_sqs_queue.documents.arn]
    principals {
      type        = "Service"
      identifiers = ["s3.amazonaws.com"]
    }
    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"
      values   = [aws_s3_bucket.this["documents"].arn]
    }
  }
}

resource "aws_sqs_queue_policy" "documents" {
  queue_url = aws_sqs_queue.documents.id
  policy    = data.aws_iam_policy_document.queue.json
}

resource "aws_s3_bucket_notification" "documents" {
  bucket = aws_s3_bucket.this["documents"].id
  queue {
    queue_arn = aws_sqs_queue.documents.arn
    events    = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]
  }
  depends_on = [aws_sqs_queue_policy.documents]
}

# Names only: values are put by whoever owns them, never by Terraform, whose state would hold them.
resource "aws_secretsmanager_secret" "this" {
  for_each                = toset(var.secrets)
  name                    = "${var.name}/${each.value}"
  kms_key_id              = aws_kms_key.this.id
  recovery_window_in_days = var.force_destroy ? 0 : 30
  tags                    = var.tags
}
