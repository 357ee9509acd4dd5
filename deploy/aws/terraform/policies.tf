data "aws_partition" "current" {}

data "aws_region" "current" {}

data "aws_caller_identity" "current" {}

locals {
  partition     = data.aws_partition.current.partition
  region        = data.aws_region.current.id
  account       = data.aws_caller_identity.current.account_id
  file_system   = aws_efs_file_system.this.arn
  access_points = "arn:${local.partition}:elasticfilesystem:${local.region}:${local.account}:access-point/*"

  # With a policy, EFS lets in only whom it, or the identity's own policy, allows: a
  # client without IAM is nobody.
  file_system_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "NothingInTheClear"
        Effect    = "Deny"
        Principal = { AWS = "*" }
        Action    = "*"
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      },
      {
        Sid       = "InstancesThroughMountTargets"
        Effect    = "Allow"
        Principal = { AWS = aws_iam_role.instances.arn }
        Action    = ["elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite", "elasticfilesystem:ClientRootAccess"]
        Condition = { Bool = { "elasticfilesystem:AccessedViaMountTarget" = "true" } }
      },
    ]
  })

  volume_policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [
        {
          Sid      = "Mount"
          Effect   = "Allow"
          Action   = ["elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite", "elasticfilesystem:ClientRootAccess"]
          Resource = local.file_system
          Condition = {
            Bool = {
              "aws:SecureTransport"                      = "true"
              "elasticfilesystem:AccessedViaMountTarget" = "true"
            }
          }
        },
        {
          Sid      = "FindMountTargets"
          Effect   = "Allow"
          Action   = "elasticfilesystem:DescribeMountTargets"
          Resource = local.file_system
        },
      ],
      [for statement in [
        {
          Sid      = "MakeAccessPoints"
          Effect   = "Allow"
          Action   = ["elasticfilesystem:CreateAccessPoint", "elasticfilesystem:DescribeAccessPoints"]
          Resource = local.file_system
        },
        {
          Sid       = "NameThemWhenMade"
          Effect    = "Allow"
          Action    = "elasticfilesystem:TagResource"
          Resource  = [local.file_system, local.access_points]
          Condition = { StringEquals = { "elasticfilesystem:CreateAction" = "CreateAccessPoint" } }
        },
        {
          Sid      = "SeeAccessPoints"
          Effect   = "Allow"
          Action   = "elasticfilesystem:DescribeAccessPoints"
          Resource = local.access_points
        },
        {
          Sid       = "RemoveOwnAccessPoints"
          Effect    = "Allow"
          Action    = "elasticfilesystem:DeleteAccessPoint"
          Resource  = local.access_points
          Condition = { Null = { "aws:ResourceTag/docker-volume-efs" = "false" } }
        },
      ] : statement if var.create_access_points],
      [for object in split("s3://", var.plugin_source) : {
        Sid      = "FetchBundle"
        Effect   = "Allow"
        Action   = "s3:GetObject"
        Resource = "arn:${local.partition}:s3:::${object}"
      } if startswith(var.plugin_source, "s3://") && object != ""],
    )
  })
}
