"""S3, SQS and Secrets Manager of the local stack, with objects that outlive the process. Start reading at `server`."""
