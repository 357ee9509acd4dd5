package sunrpc

import "testing"

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", "=", "src_port=785\ndst_port=2049\nlast_used=1\n\x00", "src_port=-1", "src_port=785\nsrc_port=0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var one Transport
		if err := one.parse(text); err == nil && one.Connected != (one.LocalPort != 0) {
			t.Errorf("%q gave %+v", text, one)
		}
	})
}
