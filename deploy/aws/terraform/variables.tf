variable "name" {
  description = "Name of all that is made"
  type        = string
  default     = "docker-volumes"
}

variable "vpc_id" {
  description = "Network of the instances and the mount targets; DNS resolution must be on"
  type        = string
}

variable "subnets" {
  description = "One subnet for each zone, for instances and the zone's mount target: zone to subnet, as { eu-central-1a = \"subnet-0123456789abcdef0\" }"
  type        = map(string)

  validation {
    condition     = length(var.subnets) > 0
    error_message = "At least one zone is needed."
  }
}

variable "plugin_source" {
  description = "Where instances get the plugin: s3://BUCKET/KEY or https://... of a bundle, or a registry's reference"
  type        = string

  validation {
    condition     = can(regex("^[^'\\s]+$", var.plugin_source))
    error_message = "A URL or a reference, without quotes and spaces."
  }
}

variable "plugin_sha256" {
  description = "SHA-256 of the bundle; empty: any"
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^([0-9a-f]{64})?$", var.plugin_sha256))
    error_message = "64 hexadecimal digits."
  }
}

variable "settings" {
  description = "More settings of the plugin, as { EFS_REMOVE = \"keep\" }; docs/settings.md has them all"
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for name, value in var.settings : can(regex("^EFS_[A-Z_]+$", name)) && can(regex("^[^'\\n]*$", value))])
    error_message = "Names are EFS_..., values have no quotes and no line breaks."
  }

  validation {
    condition     = length(setintersection(keys(var.settings), ["EFS_FILESYSTEM", "EFS_TLS", "EFS_IAM"])) == 0
    error_message = "The module sets EFS_FILESYSTEM, EFS_TLS and EFS_IAM: the file system's policy lets in nobody without."
  }
}

variable "create_access_points" {
  description = "Whether instances may make access points, for volumes with accesspoint=create"
  type        = bool
  default     = false
}

variable "ecs_cluster" {
  description = "ECS cluster to join, with an ECS-optimised image; empty: none"
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^[A-Za-z0-9_-]*$", var.ecs_cluster))
    error_message = "Letters, digits, _ and -."
  }
}

variable "swarm" {
  description = "Whether instances may reach each other on the ports of a Docker swarm"
  type        = bool
  default     = false
}

variable "image_parameter" {
  description = "SSM parameter of the image; for ECS /aws/service/ecs/optimized-ami/amazon-linux-2023/recommended/image_id"
  type        = string
  default     = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
}

variable "instance_type" {
  description = "Of the image's and the bundle's architecture"
  type        = string
  default     = "t3.small"
}

variable "instances" {
  description = "How many there shall be"
  type        = number
  default     = 2
}
