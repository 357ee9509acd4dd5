package mount

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Introductions is how often the kernel's NFS client has told a server of this root who it
// is (EXCHANGE_ID, RFC 8881 section 18.35). It does so at the mount, and again when a
// server does not know its session: then that server knows nothing of its locks either.
// A bind of a local directory has none.
func (r *Root) Introductions() (int, error) {
	if <-r.done; r.err == nil && r.stats == nil {
		return 0, errors.New("the kernel has no statistics of mounts")
	}
	var stats []byte
	err := r.do(func() (err error) {
		stats, err = io.ReadAll(io.NewSectionReader(r.stats, 0, 1<<20))
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("read mount statistics: %w", err)
	}
	return introductionsIn(string(stats))
}

// introductionsIn reads the line "EXCHANGE_ID: N ..." of the statistics by operation, in which N
// are the requests (_print_rpc_iostats in net/sunrpc/stats.c).
func introductionsIn(stats string) (int, error) {
	for line := range strings.Lines(stats) {
		rest, found := strings.CutPrefix(strings.TrimSpace(line), "EXCHANGE_ID:")
		if !found {
			continue
		}
		requests, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
		count, err := strconv.Atoi(requests)
		if err != nil {
			return 0, fmt.Errorf("mount statistics: %w", err)
		}
		return count, nil
	}
	return 0, nil
}
