//go:build integration

package integration

import (
	"cmp"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

const (
	// zonesSoak is the environment variable with how long pgbench runs; make soak sets it.
	zonesSoak = "ZONES_SOAK"
	// zonesFaultEvery is how often its mount target is taken away, for half of that time.
	zonesFaultEvery = 20 * time.Second
)

var (
	processed = regexp.MustCompile(`number of transactions actually processed: (\d+)`)
	failed    = regexp.MustCompile(`number of failed transactions: (\d+)`)
)

// testPostgres moves a data base under load every 20 s, by refusal, by silence and by
// command in turns, kills it at the end, and then looks for every transaction.
func (p zonesPlace) testPostgres(t *testing.T) {
	lasts, err := time.ParseDuration(cmp.Or(os.Getenv(zonesSoak), "75s"))
	if err != nil {
		t.Fatal(err)
	}
	for via := range strings.FieldsSeq(cmp.Or(os.Getenv(zonesSoak+"_VIA"), "relay")) {
		t.Run("via "+via, func(t *testing.T) {
			z := p.install(t, via, nil)
			z.startPostgres()
			psql := func(sql string) string {
				return strings.TrimSpace(run(t, z.h, fmt.Sprintf("docker exec pg psql -U postgres -Atc %q", sql)))
			}
			run(t, z.h, "docker exec pg pgbench -U postgres -i -q -s 2 postgres")
			run(t, z.h, fmt.Sprintf("docker exec -d pg sh -c 'pgbench -U postgres -n -c 4 -T %.0f postgres >/tmp/pgbench 2>&1; echo ended >>/tmp/pgbench'", lasts.Seconds()))
			from := z.logLines()
			begun, faults := time.Now(), 0
			for ; time.Since(begun) < lasts-zonesFaultEvery; faults++ {
				at := begun.Add(time.Duration(faults) * zonesFaultEvery)
				time.Sleep(time.Until(at.Add(zonesFaultEvery / 2)))
				zone := z.status("zone")
				switch faults % 3 {
				case 0:
					z.fault(z.server.Reject, zone)
				case 1:
					z.fault(z.server.Drop, zone)
				default:
					z.command("drain " + zone)
					z.command("drain --undo " + zone)
				}
				time.Sleep(time.Until(at.Add(zonesFaultEvery)))
				z.heal()
			}
			out := run(t, z.h, "until docker exec pg grep -q ended /tmp/pgbench; do sleep 1; done; docker exec pg cat /tmp/pgbench")
			moves := z.moves(from)
			found := processed.FindStringSubmatch(out)
			if found == nil || !failed.MatchString(out) || failed.FindStringSubmatch(out)[1] != "0" || strings.Contains(out, "aborted") {
				t.Fatalf("pgbench says\n%s", out)
			}
			if moves < faults-1 { // one may have hit a zone that had just been left
				t.Errorf("%d moves, though its mount target was taken away %d times", moves, faults)
			}
			t.Logf("%s: %s transactions, %d faults, %d moves", via, found[1], faults, moves)
			run(t, z.h, "docker kill pg && docker rm pg")
			z.startPostgres()
			if got := psql("select count(*) from pgbench_history"); got != found[1] {
				t.Errorf("%s transactions were acknowledged, %s are there", found[1], got)
			}
			sums := "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history) and " +
				"(select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history)"
			if got := psql(sums); got != "t" {
				t.Errorf("the balances do not agree: %s", got)
			}
			run(t, z.h, "docker exec pg pg_amcheck -U postgres --all --install-missing --heapallindexed")
		})
	}
}

func (z *zones) startPostgres() {
	z.t.Helper()
	run(z.t, z.h, "docker run -d --name pg --network none --shm-size 128m -v "+zonesVolume+":/volume -e PGDATA=/volume/pg postgres >/dev/null && "+
		"until docker exec pg pg_isready -q -U postgres; do sleep 0.5; done")
}
