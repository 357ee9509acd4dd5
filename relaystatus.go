package main

import (
	"fmt"
	"io"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/gateway"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/terminal"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/web"
)

// printGateway shows to people what a gateway's status page shows, and its certificate.
func printGateway(s gateway.Status, out io.Writer) error {
	if err := web.WriteText(out, snapshotOf(s)); err != nil || s.Gateway.Certificate == nil {
		return err
	}
	c := s.Gateway.Certificate
	_, err := fmt.Fprintf(out, "\ncertificate %s (%s), valid until %s\n",
		terminal.Plain(c.File), terminal.Plain(c.Subject), c.NotAfter.Local().Format(time.DateTime))
	return err
}
