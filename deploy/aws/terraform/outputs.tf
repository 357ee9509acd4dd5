output "file_system_id" {
  description = "The file system"
  value       = aws_efs_file_system.this.id
}

output "mount_target_group_id" {
  description = "Security group of the mount targets"
  value       = aws_security_group.mount_targets.id
}

output "instance_group_id" {
  description = "Security group that the mount targets let in"
  value       = aws_security_group.instances.id
}

output "role_arn" {
  description = "Role of the instances, which the file system's policy lets in"
  value       = aws_iam_role.instances.arn
}
