variable "name" {
  description = "Prefix of every resource: lower case, digits and dashes."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,30}$", var.name))
    error_message = "name is 3 to 31 lower-case letters, digits and dashes, beginning with a letter."
  }
}

variable "trust" {
  description = "JSON policy of the principals that may assume the roles of consumers, stream, assets and gateway."
  type        = string
}

variable "secrets" {
  description = "Names of the secrets to make, without values."
  type        = list(string)
  default     = ["identity", "signing", "database", "qdrant", "qdrant_read_only", "redis", "snowflake", "models"]
}

variable "secrets_of" {
  description = "Which part may read which secrets."
  type        = map(list(string))
  default = {
    consumers = ["identity", "signing", "database", "snowflake"]
    stream    = ["identity", "database", "qdrant", "models"]
    assets    = ["identity", "database", "qdrant", "snowflake", "models"]
    gateway   = ["identity", "signing", "database", "qdrant_read_only", "redis", "models"]
  }
}

variable "noncurrent_days" {
  description = "Days after which a replaced or deleted document's old versions are gone for good."
  type        = number
  default     = 30
}

variable "audit_days" {
  description = "Days for which a checkpoint of the audit log can be neither deleted nor replaced."
  type        = number
  default     = 365
}

variable "force_destroy" {
  description = "Let `destroy` take buckets with content and secrets at once. Never in production."
  type        = bool
  default     = false
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
  default     = {}
}
