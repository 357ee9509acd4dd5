package sunrpc

import (
	"errors"
	"io/fs"
	"strings"
)

// Identifier returns what an administrator has NFSv4 clients add to the name by which servers know them;
// "" is nothing, or no such client yet. Of two places the first one that is set holds
// (nfs4_get_uniquifier, fs/nfs/nfs4proc.c).
func (t *Table) Identifier() (string, error) {
	for _, name := range []string{"fs/nfs/net/nfs_client/identifier", "module/nfs/parameters/nfs4_unique_id"} {
		text, err := t.sys.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		if id := strings.TrimRight(string(text), "\n\x00"); id != "" && id != "(null)" {
			return id, nil
		}
	}
	return "", nil
}
