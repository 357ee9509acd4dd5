// Package deploy is the directory of what installs and watches the plugin elsewhere: on
// AWS, under systemd, in Grafana. It has no code; its tests hold the files against the
// formats' own validators, and against each other where two say the same.
//
// They ask nobody outside: make provisioning does what needs AWS's and Terraform's own
// programs.
package deploy
