package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/proxytest"
)

var (
	zoneA = target("a", "10.0.1.5:2049")
	zoneB = target("b", "10.0.2.5:2049")
	zoneC = target("c", "10.0.3.5:2049")
	abc   = []proxy.Target{zoneA, zoneB, zoneC}
)

// network is a world of targets that answer, refuse or say nothing.
type network struct {
	mu     sync.Mutex
	how    map[netip.AddrPort]string // "": answers; "refuses", "silent"
	rtt    map[netip.AddrPort]time.Duration
	asked  map[netip.AddrPort]int
	dialed []string
}

func (n *network) set(how string, targets ...proxy.Target) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, t := range targets {
		n.how[t.Addr] = how
	}
}

func (n *network) timesAsked(t proxy.Target) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked[t.Addr]
}

// answer is the worst case: what begins in an outage hangs until its end.
func (n *network) answer(ctx context.Context, addr netip.AddrPort) (time.Duration, error) {
	n.mu.Lock()
	how, rtt := n.how[addr], n.rtt[addr]
	n.asked[addr]++
	n.mu.Unlock()
	if rtt == 0 {
		rtt = time.Millisecond
	}
	switch how {
	case "refuses":
		return 0, fmt.Errorf("connect to %s: %w", addr, syscall.ECONNREFUSED)
	case "silent":
		<-ctx.Done()
		return 0, ctx.Err()
	}
	select {
	case <-time.After(rtt):
		return rtt, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (n *network) dial(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error) {
	n.mu.Lock()
	n.dialed = append(n.dialed, addr.String())
	n.mu.Unlock()
	if _, err := n.answer(ctx, addr); err != nil {
		return nil, err
	}
	return new(net.TCPConn), nil
}

// world runs a group in a bubble, lets it settle, and keeps its moves.
type world struct {
	*proxy.Group
	network *network
	mu      sync.Mutex // guards moves
	moves   []proxy.Move
}

func (w *world) seen() []proxy.Move {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.moves)
}

func inWorld(t *testing.T, options proxy.GroupOptions, targets []proxy.Target, story func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := &network{how: map[netip.AddrPort]string{}, rtt: map[netip.AddrPort]time.Duration{}, asked: map[netip.AddrPort]int{}}
		options.Check, options.Dial = n.answer, n.dial
		w := &world{Group: proxy.NewGroup(options, targets), network: n}
		w.OnMove(func(m proxy.Move) {
			if got := w.Current(); got != m.To {
				t.Errorf("at the move to %s the current target is %s", m.To, got)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			w.moves = append(w.moves, m)
		})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { w.Run(ctx) })
		pass(12 * time.Second)
		story(t, w)
		cancel()
		running.Wait()
	})
}

func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// checked passes the time until a target has answered one check more: they come about every five seconds.
func (w *world) checked(target proxy.Target) {
	for before := w.network.timesAsked(target); w.network.timesAsked(target) == before; {
		pass(100 * time.Millisecond)
	}
	pass(100 * time.Millisecond)
}

func (w *world) moved(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	got := []string{}
	for _, m := range w.seen() {
		got = append(got, m.From.Zone+">"+m.To.Zone+" "+string(m.Cause))
	}
	if !slices.Equal(got, want) {
		t.Fatalf("moves %q, want %q", got, want)
	}
}

func (w *world) health(t proxy.Target) proxy.Health {
	for _, s := range w.State().Targets {
		if s.Zone == t.Zone && s.Addr == t.Addr {
			return s.Health
		}
	}
	return "not there"
}

var errStuck = errors.New("bytes are not acknowledged")

func TestATargetThatHealsAfterTwoSecondsIsNotLeft(t *testing.T) {
	for begin := range 12 { // anywhere between two checks
		for _, doubt := range []time.Duration{0, 2100 * time.Millisecond, 2900 * time.Millisecond} {
			t.Run(fmt.Sprint(begin, doubt), func(t *testing.T) {
				inWorld(t, proxy.GroupOptions{}, abc, func(t *testing.T, w *world) {
					pass(time.Duration(begin) * 500 * time.Millisecond)
					w.network.set("silent", zoneA)
					pass(2 * time.Second)
					w.network.set("", zoneA)
					if doubt > 0 {
						pass(doubt - 2*time.Second)
						w.Doubt(zoneA, errStuck)
					}
					pass(time.Minute)
					w.moved(t)
				})
			})
		}
	}
}

func TestAnIdleSilentTargetIsLeftAfterFallChecks(t *testing.T) {
	inWorld(t, proxy.GroupOptions{}, abc, func(t *testing.T, w *world) {
		w.network.set("silent", zoneA)
		pass(4900 * time.Millisecond) // a check takes 3 s, the two after it 1 s
		w.moved(t)
		pass(6 * time.Second)
		w.moved(t, "a>b check")
		if w.health(zoneA) != proxy.Down {
			t.Errorf("a is %s", w.health(zoneA))
		}
	})
}

func TestABusySilentTargetIsLeftWithinFourSeconds(t *testing.T) {
	inWorld(t, proxy.GroupOptions{}, abc, func(t *testing.T, w *world) {
		w.network.set("silent", zoneA)
		pass(2900 * time.Millisecond)
		for range 3 { // said again and again
			w.Doubt(zoneA, errStuck)
			pass(360 * time.Millisecond)
		}
		w.moved(t, "a>b timeout")
	})
}

func TestDoubtEndsWhenBytesCome(t *testing.T) {
	inWorld(t, proxy.GroupOptions{}, abc, func(t *testing.T, w *world) {
		w.network.set("silent", zoneA)
		w.Doubt(zoneA, errStuck)
		pass(500 * time.Millisecond)
		w.Answered(zoneA)
		w.network.set("", zoneA)
		pass(time.Minute)
		w.moved(t)
		if w.health(zoneA) != proxy.Up {
			t.Errorf("a is %s", w.health(zoneA))
		}
	})
}

func TestARefusingTargetIsLeftAtOnce(t *testing.T) {
	inWorld(t, proxy.GroupOptions{}, abc, func(t *testing.T, w *world) {
		w.network.set("refuses", zoneA)
		w.Failed(zoneA, syscall.ECONNREFUSED)
		w.moved(t, "a>b refused")
		w.Failed(zoneA, syscall.ECONNREFUSED) // the second connection says the same
		w.moved(t, "a>b refused")
		w.network.set("", zoneA)
		pass(time.Hour)
		w.moved(t, "a>b refused") // sticky
	})
}

func TestFlappingCostsAtMostTwoMoves(t *testing.T) {
	for _, row := range []struct {
		name  string
		flaps []proxy.Target
	}{{"one target", abc[:1]}, {"all targets together", abc}} {
		for _, how := range []string{"refuses", "silent"} {
			t.Run(row.name+" "+how, func(t *testing.T) {
				inWorld(t, proxy.GroupOptions{Home: "a", Return: proxy.ReturnHome}, abc, func(t *testing.T, w *world) {
					for range 10 {
						w.network.set(how, row.flaps...)
						if how == "refuses" && slices.Contains(row.flaps, w.Current()) {
							w.Failed(w.Current(), syscall.ECONNREFUSED)
						}
						pass(2500 * time.Millisecond)
						if slices.Contains(row.flaps, w.Current()) {
							w.Doubt(w.Current(), errStuck)
						}
						pass(500 * time.Millisecond)
						w.network.set("", row.flaps...)
						pass(3 * time.Second)
					}
					if len(w.seen()) > 2 {
						t.Errorf("%d moves: %v", len(w.seen()), w.seen())
					}
				})
			})
		}
	}
}

func TestWhenAllAreDownTheFirstThatAnswersIsUsed(t *testing.T) {
	for _, how := range []string{"refuses", "silent"} {
		for _, found := range abc {
			t.Run(how+" until "+found.Zone, func(t *testing.T) {
				inWorld(t, proxy.GroupOptions{}, abc, func(t *testing.T, w *world) {
					w.network.set(how, abc...)
					w.Doubt(zoneA, errStuck)
					pass(time.Minute)
					last, moves := w.Current(), len(w.seen())
					if h := w.health(last); h != proxy.Doubt || how == "silent" && moves > 0 || moves > 2 {
						t.Errorf("the last usable target is %s, moves %v", h, w.seen())
					}
					w.network.set("", found)
					pass(1300 * time.Millisecond)
					if w.Current() != found || len(w.seen()) > moves+1 || w.health(found) != proxy.Up {
						t.Fatalf("current %s, moves %v", w.Current(), w.seen())
					}
				})
			})
		}
	}
}

func TestAnOutageOfTheHostsOwnNetworkMovesNothing(t *testing.T) {
	for _, busy := range []bool{false, true} {
		inWorld(t, proxy.GroupOptions{}, abc, func(t *testing.T, w *world) {
			w.network.set("silent", abc...)
			pass(2500 * time.Millisecond)
			if busy {
				w.Doubt(zoneA, errStuck)
			}
			pass(30 * time.Second)
			w.network.set("", abc...)
			pass(time.Minute)
			w.moved(t)
		})
	}
}

func TestTheOnlyTargetIsNeverDown(t *testing.T) {
	inWorld(t, proxy.GroupOptions{}, abc[:1], func(t *testing.T, w *world) {
		w.network.set("refuses", zoneA)
		w.Failed(zoneA, syscall.ECONNREFUSED)
		pass(time.Minute)
		if h := w.health(zoneA); h != proxy.Doubt || w.Current() != zoneA {
			t.Errorf("%s is %s", w.Current(), h)
		}
		w.network.set("", zoneA)
		pass(600 * time.Millisecond)
		if h := w.health(zoneA); h != proxy.Up {
			t.Errorf("it answers and is %s", h)
		}
	})
}

func TestADownTargetRises(t *testing.T) {
	inWorld(t, proxy.GroupOptions{}, abc, func(t *testing.T, w *world) {
		w.network.set("refuses", zoneB)
		pass(10 * time.Second)
		if h := w.health(zoneB); h != proxy.Down {
			t.Fatalf("b is %s", h)
		}
		w.network.set("", zoneB)
		w.checked(zoneB)
		if h := w.health(zoneB); h != proxy.Down {
			t.Errorf("after one check b is %s", h)
		}
		w.checked(zoneB)
		if h := w.health(zoneB); h != proxy.Up {
			t.Errorf("after two checks b is %s", h)
		}
	})
}

func TestDrain(t *testing.T) {
	inWorld(t, proxy.GroupOptions{Home: "a"}, abc, func(t *testing.T, w *world) {
		if err := w.Drain("z", true); err == nil || !strings.Contains(err.Error(), `"z"`) || !strings.Contains(err.Error(), "a, b, c") {
			t.Errorf("drain of an unknown zone: %v", err)
		}
		drain := func(zone string, on bool) {
			t.Helper()
			if err := w.Drain(zone, on); err != nil {
				t.Fatal(err)
			}
		}
		drain("a", true)
		w.moved(t, "a>b drain")
		drain("b", true)
		w.moved(t, "a>b drain", "b>c drain")
		w.network.set("refuses", zoneC)
		w.Failed(zoneC, syscall.ECONNREFUSED)
		pass(time.Minute)
		w.moved(t, "a>b drain", "b>c drain") // drained means drained
		drain("a", false)
		pass(time.Second)
		w.moved(t, "a>b drain", "b>c drain", "c>a refused")
		w.network.set("", zoneC)
		pass(time.Minute)
		drain("c", true)
		if err := w.Drain("a", true); !errors.Is(err, proxy.ErrNotLeft) || !strings.Contains(err.Error(), "zone a is in use still") { // all are: no reason to go anywhere
			t.Errorf("drain of the last zone: %v", err)
		}
		w.moved(t, "a>b drain", "b>c drain", "c>a refused")
		drain("b", false)
		w.moved(t, "a>b drain", "b>c drain", "c>a refused", "a>b drain")
	})
}

func TestAGroupBeginsWhereAnEarlierProcessWas(t *testing.T) {
	for _, row := range []struct {
		name    string
		begin   netip.AddrPort
		drained []string
		want    proxy.Target
	}{
		{"nowhere: at home", netip.AddrPort{}, nil, zoneA},
		{"in another zone", zoneB.Addr, nil, zoneB},
		{"at a target that is gone: at home", netip.MustParseAddrPort("10.9.9.9:2049"), nil, zoneA},
		{"at home, which is drained: elsewhere", netip.AddrPort{}, []string{"a"}, zoneB},
		{"in a zone that is drained: it is left", zoneC.Addr, []string{"c"}, zoneA},
	} {
		t.Run(row.name, func(t *testing.T) {
			inWorld(t, proxy.GroupOptions{Home: "a", Begin: row.begin, Drained: row.drained}, abc, func(t *testing.T, w *world) {
				if got := w.Current(); got != row.want {
					t.Errorf("it begins at %v, want %v", got, row.want)
				}
				pass(time.Hour)
				if got := w.Current(); got != row.want {
					t.Errorf("it went to %v", got)
				}
			})
		})
	}
}

func TestABackupIsUsedWhenNoOtherIs(t *testing.T) {
	backup := zoneB
	backup.Backup = true
	inWorld(t, proxy.GroupOptions{Home: "b"}, []proxy.Target{backup, zoneA, zoneC}, func(t *testing.T, w *world) {
		w.network.set("refuses", zoneA, zoneC)
		w.Failed(zoneA, syscall.ECONNREFUSED)
		w.Failed(zoneC, syscall.ECONNREFUSED)
		w.moved(t, "a>c refused", "c>b refused")
	})
}

func TestTheNearestIsChosen(t *testing.T) {
	inWorld(t, proxy.GroupOptions{}, abc, func(t *testing.T, w *world) {
		w.network.mu.Lock()
		w.network.rtt[zoneB.Addr], w.network.rtt[zoneC.Addr] = 9*time.Millisecond, 2*time.Millisecond
		w.network.mu.Unlock()
		pass(time.Minute)
		w.Failed(zoneA, syscall.ECONNRESET)
		w.moved(t, "a>c refused")
	})
}

func TestReturnHome(t *testing.T) {
	inWorld(t, proxy.GroupOptions{Home: "a", Return: proxy.ReturnHome}, abc, func(t *testing.T, w *world) {
		leave := func() {
			w.network.set("refuses", zoneA)
			w.Failed(zoneA, syscall.ECONNREFUSED)
			pass(2 * time.Minute)
			w.network.set("", zoneA)
		}
		leave()
		pass(10 * time.Minute)
		w.moved(t, "a>b refused") // it has to rise first
		pass(30 * time.Second)
		w.moved(t, "a>b refused", "b>a home")
		leave()
		pass(50 * time.Minute)
		w.moved(t, "a>b refused", "b>a home", "a>b refused")
		pass(10 * time.Minute)
		w.moved(t, "a>b refused", "b>a home", "a>b refused", "b>a home")
	})
}

func TestSetTargets(t *testing.T) {
	inWorld(t, proxy.GroupOptions{}, abc, func(t *testing.T, w *world) {
		w.network.set("refuses", zoneB)
		pass(15 * time.Second)
		w.SetTargets(nil)
		w.SetTargets([]proxy.Target{zoneC, zoneB, zoneA, zoneB})
		w.moved(t)
		if s := w.State(); len(s.Targets) != 3 || w.health(zoneB) != proxy.Down {
			t.Errorf("state %+v", s)
		}
		w.SetTargets([]proxy.Target{zoneB, zoneC})
		w.moved(t, "a>c gone")
		w.SetTargets([]proxy.Target{zoneB}) // dead, but all there is
		w.moved(t, "a>c gone", "c>b gone")
		if h := w.health(zoneB); h != proxy.Doubt {
			t.Errorf("b is %s", h)
		}
	})
}

func TestAHeldTargetIsNotTakenAtItsWord(t *testing.T) {
	inWorld(t, proxy.GroupOptions{}, abc[:2], func(t *testing.T, w *world) {
		w.Failed(zoneA, syscall.ECONNREFUSED)
		pass(15 * time.Second) // a is up again, and held
		w.network.set("silent", zoneA)
		w.Failed(zoneB, syscall.ECONNREFUSED)
		w.moved(t, "a>b refused") // a is not taken at its word
		w.network.set("", zoneA)
		pass(2 * time.Minute)
		w.Failed(w.Current(), syscall.ECONNREFUSED)
		if len(w.seen()) != 2 {
			t.Errorf("moves %v", w.seen())
		}
	})
}

func TestConnect(t *testing.T) {
	for _, row := range []struct {
		name           string
		refuse, silent []proxy.Target
		want           proxy.Target
		least, most    time.Duration
	}{
		{"goes to the current target", nil, nil, zoneA, 0, 2 * time.Millisecond},
		{"goes to the next one at once when that refuses", abc[:1], nil, zoneB, 0, 5 * time.Millisecond},
		{"goes to the last one when the others refuse", abc[:2], nil, zoneC, 0, 5 * time.Millisecond},
		{"waits for a lost SYN before it tries another", nil, abc[:1], zoneB, 1200 * time.Millisecond, 1210 * time.Millisecond},
		{"gives each a head start", nil, abc[:2], zoneC, 1450 * time.Millisecond, 1460 * time.Millisecond},
	} {
		t.Run(row.name, func(t *testing.T) {
			inWorld(t, proxy.GroupOptions{}, abc, func(t *testing.T, w *world) {
				w.network.set("refuses", row.refuse...)
				w.network.set("silent", row.silent...)
				start := time.Now()
				conn, got, err := w.Connect(t.Context())
				took := time.Since(start)
				if err != nil || conn == nil || got != row.want || w.Current() != row.want || took < row.least || took > row.most {
					t.Fatalf("Connect = %v, %s, %v after %v; current %s", conn, got, err, took, w.Current())
				}
			})
		})
	}
}

func TestConnectHoldsUntilATargetAnswers(t *testing.T) {
	for _, how := range []string{"refuses", "silent"} {
		inWorld(t, proxy.GroupOptions{}, abc, func(t *testing.T, w *world) {
			w.network.set(how, abc...)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if conn, _, err := w.Connect(ctx); conn != nil || !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("Connect = %v, %v", conn, err)
			}
			w.network.mu.Lock()
			if n := len(w.network.dialed); n > 150 {
				t.Errorf("%d attempts in 20 s", n)
			}
			w.network.mu.Unlock()
			time.AfterFunc(10*time.Second, func() { w.network.set("", zoneB) })
			start := time.Now()
			_, got, err := w.Connect(t.Context())
			if took := time.Since(start); err != nil || got != zoneB || took > 11500*time.Millisecond {
				t.Errorf("%s: Connect = %s, %v after %v", how, got, err, took)
			}
		})
	}
}

func TestConnectWaitsForTheFirstTarget(t *testing.T) {
	inWorld(t, proxy.GroupOptions{}, nil, func(t *testing.T, w *world) {
		time.AfterFunc(5*time.Second, func() { w.SetTargets(abc) })
		_, got, err := w.Connect(t.Context())
		if err != nil || got != zoneA {
			t.Fatalf("Connect = %s, %v", got, err)
		}
		w.moved(t)
	})
}

func TestAFailureOfThisHostSaysNothingOfATarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := proxy.NewGroup(proxy.GroupOptions{
			Check: func(context.Context, netip.AddrPort) (time.Duration, error) { return 0, syscall.EMFILE },
		}, abc)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		g.Run(ctx)
		if s := g.State(); s.Targets[0].Health != proxy.Unknown || len(s.Recent) != 0 {
			t.Errorf("state %+v", s)
		}
	})
}

func TestGroupOverRealSockets(t *testing.T) {
	dead, err := net.Listen("tcp", "127.0.0.10:0") // no other test listens there when this one's is closed
	if err != nil {
		t.Fatal(err)
	}
	refuses := proxy.Target{Zone: "a", Addr: dead.Addr().(*net.TCPAddr).AddrPort()}
	dead.Close()
	answers := proxy.Target{Zone: "b", Addr: proxytest.Serve(t, proxytest.Echo).Addr}
	g := proxy.NewGroup(proxy.GroupOptions{FileSystem: "fs-1"}, []proxy.Target{refuses, answers})
	moved := make(chan proxy.Move, 1)
	g.OnMove(func(proxy.Move) { t.Error("who asked to be forgotten hears of a move") })()
	g.OnMove(func(m proxy.Move) { moved <- m })
	conn, got, err := g.Connect(t.Context())
	if err != nil || got != answers {
		t.Fatalf("Connect = %s, %v", got, err)
	}
	defer conn.Close()
	message := append([]byte{0x80, 0, 0, 40, 0, 0, 0, 1}, call...)
	write(t, conn, message)
	if _, err := conn.Read(make([]byte, 64)); err != nil {
		t.Error(err)
	}
	if m := <-moved; m.From != refuses || m.To != answers || m.Cause != proxy.CauseRefused {
		t.Errorf("move %+v", m)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { g.Run(ctx) })
	for start := time.Now(); g.State().Targets[0].RTT == 0 && time.Since(start) < patience; {
		time.Sleep(time.Millisecond)
	}
	cancel()
	running.Wait()
	if s := g.State(); s.Targets[0].Target != answers || s.Targets[0].Health != proxy.Up || !s.Targets[0].InUse || s.Moves[proxy.CauseRefused] != 1 {
		t.Errorf("state %+v", s)
	}
}
