package web

import (
	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/relay"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/status"
)

// fileSystemView is a file system with what its relays say of its mount targets.
type fileSystemView struct {
	status.FileSystem
	Rows   []targetView
	Relays []transportView
	Causes []causeView
}

type targetView struct {
	proxy.TargetState
	Home bool
	// Gone is a mount target that is none any more, but had traffic.
	Gone bool
	// Traffic is the sum over the file system's relays; nil if there is none.
	Traffic *relay.TargetStats
}

type transportView struct {
	status.Transport
	Refused uint64
}

type causeView struct {
	Cause proxy.Cause
	Count uint64
}

func viewOf(f status.FileSystem) fileSystemView {
	view := fileSystemView{FileSystem: f}
	for _, t := range f.Targets {
		view.Rows = append(view.Rows, targetView{TargetState: t, Home: f.Home != "" && t.Zone == f.Home})
	}
	for _, t := range f.Transports {
		shown := transportView{Transport: t}
		if t.Traffic != nil {
			shown.Refused = t.Traffic.NotAdmitted + t.Traffic.Shed
			for _, traffic := range t.Traffic.Targets {
				view.count(traffic)
			}
		}
		view.Relays = append(view.Relays, shown)
	}
	if f.Ended != nil {
		for _, traffic := range f.Ended.Targets {
			view.count(traffic)
		}
	}
	for _, cause := range causes() {
		if n := f.Moves[cause]; n > 0 {
			view.Causes = append(view.Causes, causeView{cause, n})
		}
	}
	return view
}

// count adds traffic to its mount target's row.
func (v *fileSystemView) count(traffic relay.TargetStats) {
	for i := range v.Rows {
		row := &v.Rows[i]
		if row.Zone != traffic.Target.Zone || row.Addr != traffic.Target.Addr {
			continue
		}
		if row.Traffic == nil {
			row.Traffic = &relay.TargetStats{}
		}
		row.Traffic.Conns += traffic.Conns
		row.Traffic.Out += traffic.Out
		row.Traffic.In += traffic.In
		row.Traffic.Retransmits += traffic.Retransmits
		return
	}
	v.Rows = append(v.Rows, targetView{TargetState: proxy.TargetState{Target: traffic.Target}, Gone: true, Traffic: &traffic})
}

// wayOf is a transport's path, and what protects the bytes on it.
func wayOf(t status.Transport) string {
	if t.Protection == "" {
		return string(t.Path)
	}
	return string(t.Path) + ", " + t.Protection
}
