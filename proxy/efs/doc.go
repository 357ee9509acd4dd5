// Package efs is how a client shows Amazon EFS who it is: the TLS connection to a mount
// target, with the certificate in which EFS finds the access point and the proof of an IAM
// identity.
//
// The format is that of AWS's mount helper (github.com/aws/efs-utils, version 3.2.0), to the
// byte. A certificate is made for each connection, from the credentials of that moment, and
// kept nowhere: there is nothing to renew, and a connection that is made anew after a week is
// as good as the first.
//
//	key, err := efs.LoadKey("/mnt/efs/state/key.pem")
//	client := &efs.Client{Identity: efs.Identity{FileSystem: "fs-0123456789abcdef0", Region: "eu-west-1"}, Key: key, Host: "web-1"}
//	secured, err := client.Secure(ctx, conn, target) // relay.Relay.Secure
//
// It asks AWS nothing and knows no SDK: credentials come from a function. It touches no
// file but the key's.
//
// All functions are safe for concurrent use.
package efs
