// Package doctor is how checks of a host and its file systems are asked, and how what they
// found is told: to people, to programs, and in an archive for a report.
//
// It makes no check itself. Each has a limit of its own, after which it has failed and is
// left behind, so that one that hangs does not keep the others; and each names the findings
// without which it makes no sense.
//
//	run := doctor.Runner{Report: show, Go: stragglers.Go}
//	_, port := doctor.Ask(ctx, &run, doctor.Check{Name: "port 2049"}, dial)
//	version, tls := doctor.Ask(ctx, &run, doctor.Check{Name: "TLS", Needs: []doctor.Finding{port}}, shakeHands)
//
// A [Runner] is used by one goroutine. Findings, [Redactor] and the functions are safe for
// concurrent use.
package doctor
