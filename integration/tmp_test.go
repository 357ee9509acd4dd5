//go:build integration

package integration

import ("testing";"time";"strings")

func TestTmp(t *testing.T) {
	l := hosts(t)
	h := l.Host("host-a")
	for _, c := range []string{
		"cat /usr/share/cluster/PG_VERSION; true",
	} { t.Log(run(t,h,c)) }
	mountNFS(t, h, "nfs:/export")
	run(t, h, "touch /mnt/second")
	a:=time.Now()
	l.Server.Stop()
	if err := l.Server.Start(t.Context()); err != nil { t.Fatal(err) }
	t.Log("restart", time.Since(a)); a=time.Now()
	t.Log(run(t, h, "time ls /mnt; date"), time.Since(a))
	t.Log(run(t, h, "time rm /mnt/second; date"), time.Since(a))
	for line := range strings.Lines(l.Server.Log()) { if strings.Contains(line, "STATE") || strings.Contains(line,"INITIALIZED") { t.Log(line) } }
	for _, c := range []string{"cp -R --no-preserve=all", "cp -a", "tar"} {
		cmd := c+" /c/. /mnt/pg/"
		if c == "tar" { cmd = "(cd /c; tar cf - .) | tar -C /mnt/pg -xf -" }
		run(t,h,"[ -d /c ] || { docker create --name x postgres; docker cp x:/usr/share/cluster /c; docker rm x; }; mkdir /mnt/pg")
		a:=time.Now()
		run(t,h,cmd)
		t.Log(cmd, time.Since(a)); a=time.Now()
		run(t,h,"sync -f /mnt/pg")
		t.Log("sync", time.Since(a)); 
		t.Log(run(t,h,"find /mnt/pg | wc -l; du -sh /mnt/pg; rm -r /mnt/pg"))
	}
	run(t,h,"mkdir -p /mnt/pg; docker create --name pg -v /mnt/pg:/var/lib/postgresql/data postgres")
	a=time.Now()
	run(t,h,"docker start pg; until docker logs pg 2>&1 | grep 'ready to accept'; do sleep 0.2; done")
	t.Log("start to ready", time.Since(a)); 
	t.Log(run(t,h,"docker logs -t pg"))
	t.Log(run(t,h,"nfsstat -c; docker rm -f pg; rm -r /mnt/*"))
}
