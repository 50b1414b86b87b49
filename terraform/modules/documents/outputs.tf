output "settings" {
  description = "The settings of Tidemark that follow from these resources."
  value = {
    S3_BUCKET       = aws_s3_bucket.this["documents"].bucket
    INTERNAL_BUCKET = aws_s3_bucket.this["internal"].bucket
    ARTIFACTS_URL   = "s3://${aws_s3_bucket.this["artifacts"].bucket}"
    AUDIT_URL       = "s3://${aws_s3_bucket.this["audit"].bucket}/checkpoints"
    S3_QUEUE_URL    = aws_sqs_queue.documents.url
  }
}

output "roles" {
  description = "ARN of each part's role."
  value       = { for name, role in aws_iam_role.part : name => role.arn }
}
