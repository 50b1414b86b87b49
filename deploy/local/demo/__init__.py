"""`make demo`: the sample corpus on its way from S3 and Snowflake to a cited answer. Start reading at `walkthrough`."""
