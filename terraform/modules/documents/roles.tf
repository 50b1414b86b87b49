# One role per part. The platform decides who may assume it (`trust`): a pod's service account, a task or an instance.

locals {
  arns = { for name, bucket in aws_s3_bucket.this : name => bucket.arn }
  read = [local.arns.documents, local.arns.internal, local.arns.artifacts]
  rights = {
    # Receives notifications, lists the sources, writes row objects.
    consumers = [
      { actions = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"], resources = [aws_sqs_queue.documents.arn] },
      { actions = ["s3:ListBucket"], resources = [local.arns.documents, local.arns.internal] },
      { actions = ["s3:GetObject"], resources = ["${local.arns.documents}/*", "${local.arns.internal}/*"] },
      { actions = ["s3:PutObject", "s3:DeleteObject"], resources = ["${local.arns.internal}/rows/*"] },
    ]
    # The stream lane: reads documents, keeps artifacts.
    stream = [
      { actions = ["s3:ListBucket"], resources = local.read },
      { actions = ["s3:GetObject"], resources = [for arn in local.read : "${arn}/*"] },
      { actions = ["s3:PutObject", "s3:DeleteObject"], resources = ["${local.arns.artifacts}/*"] },
    ]
    # Reads documents, keeps artifacts, writes row objects for the sampler.
    assets = [
      { actions = ["s3:ListBucket"], resources = local.read },
      { actions = ["s3:GetObject"], resources = [for arn in local.read : "${arn}/*"] },
      { actions = ["s3:PutObject", "s3:DeleteObject"], resources = ["${local.arns.artifacts}/*"] },
      { actions = ["s3:PutObject"], resources = ["${local.arns.internal}/rows/*"] },
    ]
    # Takes uploads, and anchors the audit log. It never reads a document's source: answers come from the index.
    gateway = [
      { actions = ["s3:ListBucket"], resources = [local.arns.audit] },
      { actions = ["s3:GetObject", "s3:PutObject"], resources = ["${local.arns.audit}/*"] },
      { actions = ["s3:ListBucket"], resources = [local.arns.internal] },
      { actions = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"], resources = ["${local.arns.internal}/uploads/*"] },
    ]
  }
}

data "aws_iam_policy_document" "part" {
  for_each = local.rights
  dynamic "statement" {
    for_each = each.value
    content {
      actions   = statement.value.actions
      resources = statement.value.resources
    }
  }
  statement {
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [aws_kms_key.this.arn]
  }
  statement {
    actions   = ["secretsmanager:GetSecretValue"]
    resources = [for name in lookup(var.secrets_of, each.key, []) : aws_secretsmanager_secret.this[name].arn]
  }
}

resource "aws_iam_role" "part" {
  for_each           = local.rights
  name               = "${var.name}-${each.key}"
  assume_role_policy = var.trust
  tags               = var.tags
}

resource "aws_iam_role_policy" "part" {
  for_each = local.rights
  name     = "least"
  role     = aws_iam_role.part[each.key].id
  policy   = data.aws_iam_policy_document.part[each.key].json
}
