package sunrpc

import "testing"

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", "=", "src_port=785\ndst_port=2049\nlast_used=1\n\x00", "src_port=-1", "src_port=785\nsrc_port=0"} {
		f.Add("10.0.1.200\n", seed)
	}
	f.Fuzz(func(t *testing.T, local, text string) {
		var one Transport
		if err := one.parse(local, text); err == nil && one.Connected != (one.Local.Port() != 0) {
			t.Errorf("%q, %q gave %+v", local, text, one)
		}
	})
}
