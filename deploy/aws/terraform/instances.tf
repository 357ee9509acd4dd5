data "aws_ssm_parameter" "image" {
  name = var.image_parameter
}

locals {
  settings = merge(var.settings, {
    PLUGIN_SOURCE  = var.plugin_source
    PLUGIN_SHA256  = var.plugin_sha256
    ECS_CLUSTER    = var.ecs_cluster
    EFS_FILESYSTEM = aws_efs_file_system.this.id
    EFS_TLS        = "on"
    EFS_IAM        = "on"
    AWS_REGION     = local.region
  })
  user_data = join("", concat(
    ["#!/bin/sh\n"],
    [for name, value in local.settings : "${name}='${value}'\n"],
    [file("${path.module}/../user-data.sh")],
  ))
}

resource "aws_iam_role" "instances" {
  name_prefix = "${var.name}-"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "ec2.${data.aws_partition.current.dns_suffix}" }
      Action    = "sts:AssumeRole"
    }]
  })
}

resource "aws_iam_role_policy" "volumes" {
  name   = "docker-volume-efs"
  role   = aws_iam_role.instances.id
  policy = local.volume_policy
}

resource "aws_iam_role_policy_attachment" "ecs" {
  count = var.ecs_cluster == "" ? 0 : 1

  role       = aws_iam_role.instances.name
  policy_arn = "arn:${local.partition}:iam::aws:policy/service-role/AmazonEC2ContainerServiceforEC2Role"
}

resource "aws_iam_instance_profile" "instances" {
  name_prefix = "${var.name}-"
  role        = aws_iam_role.instances.name
}

resource "aws_security_group" "instances" {
  name_prefix = "${var.name}-instances-"
  description = "Instances with the plugin"
  vpc_id      = var.vpc_id

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_egress_rule" "all" {
  security_group_id = aws_security_group.instances.id
  description       = "packages, AWS, mount targets"
  ip_protocol       = "-1"
  cidr_ipv4         = "0.0.0.0/0"
}

resource "aws_vpc_security_group_ingress_rule" "swarm" {
  for_each = var.swarm ? {
    managers = { protocol = "tcp", port = 2377 }
    nodes    = { protocol = "tcp", port = 7946 }
    gossip   = { protocol = "udp", port = 7946 }
    overlay  = { protocol = "udp", port = 4789 }
  } : {}

  security_group_id            = aws_security_group.instances.id
  referenced_security_group_id = aws_security_group.instances.id
  description                  = "swarm ${each.key}"
  ip_protocol                  = each.value.protocol
  from_port                    = each.value.port
  to_port                      = each.value.port
}

resource "aws_launch_template" "instances" {
  name_prefix            = "${var.name}-"
  image_id               = data.aws_ssm_parameter.image.insecure_value
  instance_type          = var.instance_type
  vpc_security_group_ids = [aws_security_group.instances.id]
  user_data              = base64encode(local.user_data)

  iam_instance_profile {
    arn = aws_iam_instance_profile.instances.arn
  }

  # The plugin is in the host's network, so one hop is enough for it, and containers
  # in networks of their own do not get at the role.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  block_device_mappings {
    device_name = "/dev/xvda"

    ebs {
      encrypted   = true
      volume_size = 30
      volume_type = "gp3"
    }
  }
}

resource "aws_autoscaling_group" "instances" {
  name_prefix         = "${var.name}-"
  min_size            = 0
  max_size            = var.instances
  desired_capacity    = var.instances
  vpc_zone_identifier = values(var.subnets)

  launch_template {
    id      = aws_launch_template.instances.id
    version = aws_launch_template.instances.latest_version
  }

  instance_refresh {
    strategy = "Rolling"
  }

  tag {
    key                 = "Name"
    value               = var.name
    propagate_at_launch = true
  }

  depends_on = [aws_efs_mount_target.this, aws_efs_file_system_policy.this, aws_iam_role_policy.volumes]
}
