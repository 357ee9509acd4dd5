package relay

import (
	"bytes"
	"net"
	"strings"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/batch"
)

// small is a layer that reads small pieces, as TLS does.
type small struct{ *batch.Conn }

func (s small) Read(p []byte) (int, error) { return s.Conn.Read(p[:min(len(p), 100)]) }
func (s small) NetConn() net.Conn          { return s.Conn }

// pieces counts writes.
type pieces struct {
	bytes.Buffer
	count int
}

func (p *pieces) Write(data []byte) (int, error) {
	p.count++
	return p.Buffer.Write(data)
}

func TestWhatIsInStoreIsPassedAsOnePieceAndWithoutAnError(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	dialed, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer dialed.Close()
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	under, err := batch.New(accepted.(*net.TCPConn))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("NFS ", 1000)
	if _, err := dialed.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	var to pieces
	if n, err := pass(&to, small{under}, make([]byte, largeRead)); n != len(text) || err != nil || to.count != 1 || to.String() != text {
		t.Errorf("%d bytes in %d pieces, %v", n, to.count, err)
	}
}
